"""Accuracy against history: which frames each output sees, and which are scored."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.cli.main import run
from streamseg.errors import DatasetError
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.history_lengths import parse_lengths, study_history
from streamseg.evaluation.scores import EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import Output, Segmenter
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.video.resize import whole_placement


class Memory(Segmenter):
    """Its state is the sum of the frames since the reset; labels show how many those were."""

    def __init__(self) -> None:
        self.name = "memory"
        self.classes = tuple(ClassInfo(i, str(i), (0, 0, 0)) for i in range(11))
        self.seen: list[int] = []
        self.outputs: list[list[int]] = []

    def step(self, frame: np.ndarray) -> Output:
        self.seen.append(int(frame.sum()))
        self.outputs.append(list(self.seen))
        labels = np.full(frame.shape[:2], min(len(self.seen), 10), np.uint8)
        return Output(labels, whole_placement(frame.shape[:2]), lambda: None)

    def reset(self) -> None:
        self.seen = []

    def state(self) -> dict[str, np.ndarray]:
        return {}


def test_each_output_sees_exactly_the_frames_before_it(camvid: Path) -> None:
    dataset = open_dataset(f"camvid:{camvid}", "val")
    sums = [int(frame.image.sum()) for frame in dataset.clips[0]]
    memory = Memory()
    result = evaluate(memory, dataset, EvaluationOptions(history=3))
    last = [sums[max(0, t - 2) : t + 1] for t in range(len(sums))]
    assert [memory.outputs[i] for i in (0, 2, 5)] == last[:3]
    assert memory.outputs[-1] == last[-1]
    assert result.steps == sum(len(part) for part in last)


def test_every_length_is_scored_over_the_same_frames(camvid: Path) -> None:
    dataset = open_dataset(f"camvid:{camvid}", "val")  # 20 frames
    study = study_history(Memory(), dataset, (1, 4, None))
    assert study.skipped == 4
    counted = [(e.scores.frames, len(e.timeline), e.steps) for e in study.evaluations]
    assert counted == [(16, 16, 16), (16, 16, 64), (16, 16, 16)]
    assert {e.timeline[0].index for e in study.evaluations} == {4}


def test_stateless_is_a_history_of_one_frame(camvid: Path) -> None:
    dataset = open_dataset(f"camvid:{camvid}", "val")
    study = study_history(Memory(), dataset, (1, None))
    assert (study.skipped, study.evaluations[0].stateless) == (0, True)
    for got, history in zip(study.evaluations, (1, None), strict=True):
        expected = evaluate(Memory(), dataset, EvaluationOptions(history=history))
        np.testing.assert_array_equal(got.scores.iou, expected.scores.iou)


def test_short_clips_are_left_out_and_none_left_is_refused(camvid: Path) -> None:
    dataset = open_dataset(f"camvid:{camvid}", "train")  # two clips of 4
    with pytest.raises(DatasetError, match="no clip of more than 4 frames"):
        study_history(Memory(), dataset, (4,))
    assert study_history(Memory(), dataset, (3,)).left_out == ()


def test_lengths_are_parsed_sorted_and_once_each() -> None:
    assert parse_lengths("all, 8,1,8") == (1, 8, None)
    for text in ("0", "1,,2", "-1", "some"):
        with pytest.raises(DatasetError, match="expected numbers from 1 and 'all'"):
            parse_lengths(text)


def test_command_writes_table_plot_and_json(
    bundle: Path, camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    arguments = ["eval", str(bundle), "--dataset", f"camvid:{camvid}", "--history", "1,2,all"]
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--json", str(out), "-o", str(tmp_path / "plots")])
    assert code.value.code == 0
    rows = json.loads(out.read_text())["lengths"]
    assert [row["history"] for row in rows] == [1, 2, "all"]
    assert [row["steps"] / row["frames"] for row in rows] == [1, 2, 1]
    shown = capsys.readouterr().out
    assert "steps a frame" in shown
    assert "18 labelled frames of 1 clip" in shown
    assert cv2.imread(str(tmp_path / "plots/history.png")).std() > 1
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--stateless"])
    assert code.value.code == 2
