"""Two models over the same frames."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from streamseg.cli.main import run
from streamseg.errors import StateMismatch
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.drift import ComparisonOptions, classify_trend, compare, relative_error
from streamseg.evaluation.segmenter import Output, Segmenter
from streamseg.runtime.video.resize import whole_placement
from tests.evaluation.trees import write_image


class Scripted(Segmenter):
    """States follow a function of the step; labels and logits are constant."""

    def __init__(self, state, label=0):
        self.name, self.classes = "scripted", ()
        self.make, self.label, self.count = state, label, 0

    def step(self, frame):  # noqa: ARG002
        self.count += 1
        logits = np.full((2, 2, 2), self.label, np.float32)
        labels = np.zeros((2, 2), np.uint8)
        labels[0, 0] = self.label
        return Output(labels, whole_placement(labels.shape), lambda: logits)

    def reset(self):
        self.count = 0

    def state(self):
        return self.make(self.count)


@pytest.fixture
def clip(tmp_path):
    for i in range(4):
        write_image(tmp_path / f"{i}.png", i)
    return open_dataset(f"footage:{tmp_path}").clips[0]


def constant(_):
    return {"layer0": np.ones(4, np.float32), "layer1": np.ones(4, np.float32)}


def drifting(count):
    return {
        "layer0": np.full(4, 1 + 1e-4 * count, np.float32),
        "layer1": np.full(4, 1 + (0.1 if count >= 7 else 0), np.float32),
    }


def test_comparison_measures_labels_logits_and_state(clip):
    result = compare(
        Scripted(constant), Scripted(drifting, label=1), clip, ComparisonOptions(frames=20)
    )
    assert len(result.frames) == 20
    assert {frame.agreement for frame in result.frames} == {0.75}
    assert {frame.logits for frame in result.frames} == {1.0}
    assert result.series("layer0") == pytest.approx(1e-4 * np.arange(1, 21), rel=1e-2)
    crossing = result.first_crossing
    assert (crossing.frame, crossing.name) == (6, "layer1")
    assert crossing.error == pytest.approx(0.1, rel=1e-4)
    assert result.trend("layer0") == "grows"


def test_first_crossing_is_the_earliest_layer_of_the_earliest_frame(clip):
    def late(count):
        value = 2.0 if count >= 3 else 1.0
        return {"layer0": np.full(4, value), "layer1": np.full(4, value)}

    crossing = compare(Scripted(constant), Scripted(late), clip).first_crossing
    assert (crossing.frame, crossing.name) == (2, "layer0")
    assert compare(Scripted(constant), Scripted(constant), clip).first_crossing is None


def test_non_finite_state_crosses(clip):
    def broken(_):
        return {"layer0": np.full(4, np.nan, np.float32), "layer1": np.ones(4, np.float32)}

    crossing = compare(Scripted(constant), Scripted(broken), clip).first_crossing
    assert (crossing.frame, crossing.name, crossing.error) == (0, "layer0", np.inf)


def test_states_of_other_shape_are_refused(clip):
    other = Scripted(lambda _: {"layer0": np.ones(5)})
    with pytest.raises(StateMismatch, match=r"'layer0' is \[4\].*\[5\]"):
        compare(Scripted(constant), other, clip)


@pytest.mark.parametrize(
    ("errors", "trend"),
    [
        (np.zeros(100), "zero"),
        (np.linspace(0, 1, 100), "grows"),
        (1e-6 * 1.05 ** np.arange(200), "grows"),
        (1 - np.exp(-np.arange(200) / 10), "saturates"),
        (np.exp(-np.arange(200) / 20), "dies out"),
        (np.full(10, 1.0), "too short"),
        (np.append(np.full(50, 0.1), np.inf), "grows"),
    ],
)
def test_trends(errors, trend):
    assert classify_trend(errors) == trend


def test_trend_is_not_moved_by_single_frames():
    noise = np.random.default_rng(0).uniform(0.8, 1.2, 300)
    noise[[40, 290]] = 6.0
    assert classify_trend(noise) == "saturates"


def test_relative_error():
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.1)
    assert relative_error(np.zeros(2), np.zeros(2)) == 0.0
    assert relative_error(np.zeros(2), np.ones(2)) == np.inf


def test_compare_command(bundle, tmp_path, capsys):
    for i in range(5):
        write_image(tmp_path / "frames" / f"{i}.png", i)
    out, plot = tmp_path / "c.json", tmp_path / "c.png"
    arguments = [f"{bundle}@no-native", str(bundle), str(tmp_path / "frames")]
    with pytest.raises(SystemExit) as exit_code:
        run(["compare", *arguments, "--frames", "20", "--json", str(out), "--plot", str(plot)])
    assert exit_code.value.code == 0
    content = json.loads(out.read_text())
    assert content["frames"] == 20
    assert content["agreement"]["min"] > 0.99
    assert set(content["state"]) == {"layer0.conv", "layer0.scan", "layer1.conv", "layer1.scan"}
    assert "equal labels" in capsys.readouterr().out
    assert cv2.imread(str(plot)).std() > 1


def test_compare_command_takes_drawn_scenes(bundle, capsys):
    with pytest.raises(SystemExit) as exit_code:
        run(["compare", str(bundle), str(bundle), "synthetic:easy?size=48x64&frames=3"])
    message = capsys.readouterr().out
    assert exit_code.value.code == 0
    assert "3 frames" in message
    assert "100.0000% on average" in message


@pytest.mark.parametrize(
    ("option", "path", "words"),
    [
        ("--json", "file/c.json", "cannot make the folder"),
        ("--plot", "file/c.png", "cannot make the folder"),
        ("--json", ".", "is a folder"),
        ("--json", "/dev/null", "is a device"),
    ],
)
def test_unwritable_output_is_reported_before_the_work(tmp_path, capsys, option, path, words):
    (tmp_path / "file").touch()
    target = str(tmp_path / path)
    with pytest.raises(SystemExit) as exit_code:
        run(["compare", "no", "bundles", "no footage", option, target])
    assert exit_code.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("second", "source", "words"),
    [
        ("nowhere", "{frames}", "nowhere does not exist"),
        ("{bundle}@cloud", "{frames}", "cloud"),
        ("{bundle}", "{frames}/none", "none"),
        ("{bundle}", "{empty}", "no images or videos"),
    ],
)
def test_compare_mistakes_are_one_line(bundle, tmp_path, capsys, second, source, words):
    places = {"bundle": bundle, "frames": tmp_path / "frames", "empty": tmp_path / "empty"}
    write_image(places["frames"] / "0.png", 0)
    places["empty"].mkdir()
    with pytest.raises(SystemExit) as exit_code:
        run(["compare", str(bundle), second.format(**places), source.format(**places)])
    error = capsys.readouterr().err.strip()
    assert exit_code.value.code == 2
    assert words in error
    assert len(error.splitlines()) == 1
