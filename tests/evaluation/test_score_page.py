"""The page and the tables of an evaluation; absent classes have no 0."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from streamseg.cli.main import run
from streamseg.evaluation.datasets import Dataset, LabelledFrame, SegmentationClass
from streamseg.evaluation.metrics import MetricOptions
from streamseg.evaluation.percentages import percent
from streamseg.evaluation.score_page import class_rows, render_scores, summary_rows
from streamseg.evaluation.scores import EvaluationOptions, evaluate
from tests.evaluation.test_html_page import Reader
from tests.evaluation.test_scores import Recorder
from tests.training.small import ArrayClip

NAMES = ("road", "car", "train", "bus")


class Clip(ArrayClip):
    """Labels of the first two classes only."""

    def __getitem__(self, index):
        frame = super().__getitem__(index)
        return LabelledFrame(frame.name, frame.image, frame.label % 2, frame.time)


def evaluation(*, vspw_script: bool = False):
    """The prediction has a train that is not there; nobody knows of a bus."""
    clip = Clip("clip", frames=3)
    classes = tuple(SegmentationClass(name, (10 * i, 200, 3 * i)) for i, name in enumerate(NAMES))
    dataset = Dataset("array", "nowhere", "val", [clip], classes)  # type: ignore[arg-type]
    truth = [clip[i].label for i in range(3)]
    predictions = [label.copy() for label in truth]
    for prediction in predictions:
        prediction[0, :3] = 2
    recorder = Recorder(predictions)
    recorder.classes = recorder.classes[:4]
    options = EvaluationOptions(metrics=MetricOptions(vspw_script=vspw_script))
    return evaluate(recorder, dataset, options=options), truth, predictions


def test_absent_classes_have_a_dash_and_a_reason() -> None:
    result, truth, predictions = evaluation()
    _, *rows = class_rows(result)
    cells = {name: iou for name, iou, *_ in rows}
    valid = np.stack(truth).ravel() < 255
    expected = jaccard_score(
        np.stack(truth).ravel()[valid],
        np.stack(predictions).ravel()[valid],
        labels=[0, 1],
        average=None,
    )
    assert cells == {
        "road": percent(expected[0]),
        "car": percent(expected[1]),
        "train": "-",
        "bus": "-",
    }
    lines = " ".join(result.explanations)
    assert "- for train: the class is in the predictions and not in the labels; it counts" in lines
    assert "- for bus: the class is neither in the labels nor in the predictions" in lines
    # The figure itself, and its JSON, are as the definition says.
    assert result.as_json()["per_class"]["train"] == 0.0
    assert result.scores.miou == pytest.approx((expected.sum() + 0) / 3)


def test_reason_follows_how_the_mean_is_formed() -> None:
    result, _, _ = evaluation(vspw_script=True)
    assert any("does not count in mIoU" in line for line in result.explanations)
    shown = [value for value in result.scores.shown_iou if not math.isnan(value)]
    assert result.scores.miou == pytest.approx(np.mean(shown))


def test_page_has_the_figures_of_the_table_and_the_worst_frames() -> None:
    result, _, _ = evaluation()
    read = Reader(render_scores([result], [SegmentationClass(n, (9, 9, 9)) for n in NAMES]))
    text = " ".join(read.texts)
    for _, *cells in list(class_rows(result))[1:]:
        assert all(cell in read.texts for cell in cells)
    for name, value in summary_rows(result):
        assert name in text
        assert value in text
    assert "0.00" not in [cell for _, cell, *_ in class_rows(result)]
    assert "Worst frames of" in text
    assert read.tags.count("img") == 3
    assert read.tags.count("li") == len(NAMES)
    assert not [v for v in read.values if re.match(r"https?:", v)]


def test_command_writes_a_page_by_its_suffix(bundle, camvid, tmp_path, capsys) -> None:
    target = tmp_path / "new/scores.html"
    arguments = ["eval", str(bundle), "--dataset", f"camvid:{camvid}", "-o", str(target)]
    with pytest.raises(SystemExit) as code:
        run(arguments)
    assert code.value.code == 0, capsys.readouterr()
    assert "wrote" in capsys.readouterr().out
    texts = Reader(target.read_text()).texts
    assert "sky" in [text.lower() for text in texts]
    assert "mIoU" in texts


def test_page_of_a_study_is_refused_before_scoring(bundle, camvid, tmp_path, capsys) -> None:
    arguments = ["eval", str(bundle), "--dataset", f"camvid:{camvid}", "--history", "1,all"]
    with pytest.raises(SystemExit) as code:
        run([*arguments, "-o", str(tmp_path / "scores.html")])
    assert code.value.code == 2
    assert "write plots: name a folder" in capsys.readouterr().err
