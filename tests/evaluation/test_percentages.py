"""Figures that nothing defines: a dash for people, null in JSON, a gap in plots, and a reason."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from streamseg.evaluation.datasets import Dataset, LabelledFrame, SegmentationClass
from streamseg.evaluation.percentages import explain_undefined, percent, undefined_figures
from streamseg.evaluation.plots import draw_class_bars
from streamseg.evaluation.scores import evaluate
from tests.evaluation.test_scores import Recorder
from tests.training.small import ArrayClip

NAMES = ("road", "car", "train")


class Clip(ArrayClip):
    """Three classes of which the last never occurs."""

    def __getitem__(self, index):
        frame = super().__getitem__(index)
        return LabelledFrame(frame.name, frame.image, frame.label % 2, frame.time)


def evaluation(frames: int = 4):
    clip = Clip("clip", frames=frames)
    classes = tuple(SegmentationClass(name, (0, 0, 0)) for name in NAMES)
    dataset = Dataset("array", "nowhere", "val", [clip], classes)  # type: ignore[arg-type]
    recorder = Recorder([clip[i].label for i in range(frames)])
    recorder.classes = recorder.classes[:3]
    return evaluate(recorder, dataset)


def test_percent_writes_a_dash_for_missing_values():
    assert [percent(value) for value in (0.0, 0.12345, math.nan, None)] == [
        "0.00",
        "12.35",
        "-",
        "-",
    ]


def test_every_undefined_figure_is_null_in_json_and_has_a_reason():
    result = evaluation()
    content = json.loads(json.dumps(result.as_json()))
    assert content["per_class"] == {"road": 1.0, "car": 1.0, "train": None}
    flat = dict(content)
    for key in ("per_class", "flicker_per_class"):
        flat |= {f"{key}.{name}": value for name, value in content[key].items()}
    nulls = {name for name, value in flat.items() if value is None}
    assert nulls == set(content["undefined"])
    assert nulls == {
        "per_class.train",
        "flicker_per_class.train",
        "mvc8",
        "mvc8_correct",
        "mvc16",
        "mvc16_correct",
    }
    assert "neither in the labels nor in the predictions" in content["undefined"]["per_class.train"]
    assert "8 labelled frames in a row" in content["undefined"]["mvc8"]


def test_each_reason_is_reported_once():
    result = evaluation(10)
    lines = explain_undefined(undefined_figures(result.scores, NAMES))
    assert [line.split(":")[0] for line in lines] == [
        "- for train",
        "- for mvc16, mvc16_correct",
        "- for flicker_per_class.train",
    ]


def test_class_without_pixels_has_no_bar():
    axes = draw_class_bars([evaluation()]).axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [100.0, 100.0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["100.0", "100.0", "- (absent)"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)


def test_page_and_table_give_the_same_reason(capsys):
    from rich.console import Console

    from streamseg.calibration.report import Report, Subject, render_report
    from streamseg.cli.score_tables import print_evaluation

    result = evaluation()
    print_evaluation(result, Console(width=200))
    message = capsys.readouterr().out
    page = render_report(Report("t", [Subject("float32", 1, evaluation=result)], {}, "here"))
    for line in explain_undefined(result.undefined):
        assert line in message
        assert line in page
    assert re.search(r"train\s+│\s+-", message)
    assert "nan" not in message.lower()
    assert "<td>train</td><td>-</td>" in page


@pytest.mark.parametrize("frames", [1, 3])
def test_labels_that_are_all_void_are_refused(frames, monkeypatch):
    from streamseg.errors import DatasetError

    void = np.full((32, 64), 255, np.uint8)
    monkeypatch.setattr(
        Clip, "__getitem__", lambda _self, i: LabelledFrame(str(i), np.zeros((32, 64, 3)), void, i)
    )
    with pytest.raises(DatasetError, match=f"all of its {frames} label maps are void"):
        evaluation(frames)
