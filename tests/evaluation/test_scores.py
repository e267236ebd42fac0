"""Evaluation of bundles and checkpoints, and the command line around it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.cli.main import run
from streamseg.errors import BundleError, CheckpointError, DatasetError
from streamseg.evaluation.datasets import Dataset, open_dataset
from streamseg.evaluation.scores import EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import Output, Segmenter, SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter, parse_subject, require_subjects
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.video.resize import Placement, place_frame, whole_placement
from tests.conftest import SHARED
from tests.evaluation.models import SIZE, write_checkpoint

CHECKPOINT = SHARED / "checkpoints/tv3s_mit_b0_e64_w10_camvid.pth"
KEYS = ["miou", "weighted_iou", "pixel_accuracy", "mvc8", "mvc16", "per_class", "fps", "frames"]


def output(labels: np.ndarray, logits: np.ndarray | None = None) -> Output:
    """Of a frame of the model's size."""
    return Output(labels, whole_placement(labels.shape), lambda: logits, "logits")


class Recorder(Segmenter):
    """Returns each frame's label from a list; notes resets."""

    def __init__(self, labels: list[np.ndarray]) -> None:
        self.name = "recorder"
        self.classes = tuple(ClassInfo(i, str(i), (0, 0, 0)) for i in range(11))
        self.labels = iter(labels)
        self.calls: list[str] = []

    def step(self, frame):  # noqa: ARG002
        self.calls.append("step")
        return output(next(self.labels))

    def reset(self):
        self.calls.append("reset")

    def state(self):
        return {}


def truth(dataset: Dataset) -> list[np.ndarray]:
    return [np.where(f.label == 255, 0, f.label) for clip in dataset.clips for f in clip]


def test_perfect_predictions_score_one_and_state_resets_at_clips(camvid):
    dataset = open_dataset(f"camvid:{camvid}", "train")
    recorder = Recorder(truth(dataset))
    result = evaluate(recorder, dataset)
    assert (result.scores.miou, result.scores.pixel_accuracy) == (1.0, 1.0)
    assert recorder.calls == ["reset", *["step"] * 4, "reset", *["step"] * 4]


def test_stateless_resets_before_every_frame(camvid):
    dataset = open_dataset(f"camvid:{camvid}", "test")
    recorder = Recorder(truth(dataset))
    evaluate(recorder, dataset, EvaluationOptions(history=1))
    assert recorder.calls == ["reset", *["reset", "step"] * 6]


def test_worst_frames_come_lowest_first(camvid):
    dataset = open_dataset(f"camvid:{camvid}", "val")
    labels = truth(dataset)
    for i, rows in ((3, 9), (7, 4), (11, 12)):
        labels[i][:rows] = 10
    result = evaluate(Recorder(labels), dataset)
    assert [worst.at.index for worst in result.worst[:3]] == [11, 3, 7]
    assert len(result.worst) == 6


def test_class_count_must_fit(camvid):
    recorder = Recorder([])
    recorder.classes = recorder.classes[:5]
    with pytest.raises(DatasetError, match="5 classes and camvid 11"):
        evaluate(recorder, open_dataset(f"camvid:{camvid}", "val"))


def test_footage_cannot_be_evaluated(camvid):
    with pytest.raises(DatasetError, match="footage has no labels"):
        evaluate(Recorder([]), open_dataset(f"footage:{camvid / 'val'}"))


def test_logits_are_resized_before_the_argmax():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 6, 8)).astype(np.float32)
    got = output(logits.argmax(0).astype(np.uint8), logits).labels_at((9, 8))
    expected = np.stack([cv2.resize(c, (8, 9), interpolation=cv2.INTER_LINEAR) for c in logits])
    np.testing.assert_array_equal(got, expected.argmax(0))


def test_margins_of_a_letterbox_are_left_out_of_resized_logits():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((3, 12, 20)).astype(np.float32)
    region = place_frame((30, 20), (12, 20), "letterbox")
    assert (region.left, region.right) == (6, 14)
    placement = Placement((30, 20), (12, 20), region)
    got = Output(np.zeros((30, 20), np.uint8), placement, lambda: logits, "logits")
    inner = np.ascontiguousarray(logits[:, :, 6:14].transpose(1, 2, 0))
    expected = cv2.resize(inner, (20, 30), interpolation=cv2.INTER_LINEAR).argmax(-1)
    np.testing.assert_array_equal(got.labels_at((30, 20)), expected)


def test_labels_alone_are_repeated_to_the_labels_size():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    got = output(labels).labels_at((4, 6))
    np.testing.assert_array_equal(got, labels.repeat(2, 0).repeat(2, 1))


def test_bundle_and_checkpoint_agree(bundle, camvid, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "tiny.safetensors")
    options = SegmenterOptions(size=SIZE)
    frame = next(iter(open_dataset(f"camvid:{camvid}", "val").clips[0])).image
    with open_segmenter(bundle, options) as a, open_segmenter(checkpoint, options) as b:
        for _ in range(3):
            first, second = a.step(frame), b.step(frame)
            np.testing.assert_allclose(first.logits, second.logits, atol=5e-4)
            np.testing.assert_array_equal(first.labels, second.labels)
        assert list(a.state()) == list(b.state())
        for name, tensor in a.state().items():
            np.testing.assert_allclose(tensor, b.state()[name], atol=5e-4)
        b.reset()
        assert not any(tensor.any() for tensor in b.state().values())


def test_eval_command_writes_json_table_and_plots(bundle, camvid, tmp_path, capsys):
    out, plots = tmp_path / "r.json", tmp_path / "plots"
    arguments = ["eval", str(bundle), "--dataset", f"camvid:{camvid}", "--split", "val"]
    with pytest.raises(SystemExit) as exit_code:
        run([*arguments, "--json", str(out), "-o", str(plots)])
    assert exit_code.value.code == 0
    content = json.loads(out.read_text())
    assert [key for key in KEYS if key not in content] == []
    assert content["frames"] == 20
    assert 0 <= content["mvc8"] <= 1
    assert content["per_class"]["sky"] is not None
    assert "mIoU" in capsys.readouterr().out
    for name in ("iou.png", "timeline.png", "worst.png"):
        assert cv2.imread(str(plots / name)).std() > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["{checkpoint}"], "add --size"),
    ],
)
def test_eval_command_mistakes_are_one_line(bundle, camvid, tmp_path, capsys, arguments, words):
    checkpoint = write_checkpoint(tmp_path / "tiny.safetensors")
    filled = [a.format(bundle=bundle, checkpoint=checkpoint) for a in arguments]
    with pytest.raises(SystemExit) as exit_code:
        run(["eval", *filled, "--dataset", f"camvid:{camvid}"])
    assert exit_code.value.code == 2
    error = capsys.readouterr().err.strip()
    assert words in error.replace("\n", " ")
    assert len(error.splitlines()) == 1


def test_split_that_does_not_exist_is_a_usage_error(bundle, camvid, capsys):
    with pytest.raises(SystemExit) as exit_code:
        run(["eval", str(bundle), "--split", "tiny", "--dataset", f"camvid:{camvid}"])
    assert exit_code.value.code == 2
    assert "'tiny' is not one of 'train', 'val', 'test'" in capsys.readouterr().err


def test_subject_may_name_how_a_bundle_is_run(tmp_path):
    options = SegmenterOptions()
    path, parsed = parse_subject("street@no-native", options)
    assert (path, parsed.native) == (Path("street"), False)
    assert parse_subject("street@native", options)[1].native is True
    assert parse_subject("street@cuda", options)[1].backend == "cuda"
    odd = tmp_path / "a@b"
    odd.mkdir()
    assert parse_subject(str(odd), options) == (odd, options)


@pytest.mark.parametrize(
    ("subject", "options", "named"),
    [
        ("c.pth", SegmenterOptions(size=(64, 64), backend="openvino"), "--backend"),
        ("c.pth", SegmenterOptions(size=(64, 64), precision="bf16"), "--precision"),
        ("c.pth", SegmenterOptions(size=(64, 64), native=False), "--native"),
        ("c.pth@native", SegmenterOptions(size=(64, 64)), "--native"),
    ],
)
def test_options_of_bundles_are_rejected_for_a_checkpoint(
    subject, options, named, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("c.pth").write_bytes(b"x")
    Path("bundle").mkdir()
    Path("bundle/manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"{named} is for bundles"):
        require_subjects([subject], options)
    if "@" in subject:  # an option of both is for the bundle, a suffix for its own subject
        with pytest.raises(CheckpointError, match=f"{named} is for bundles"):
            require_subjects([subject, "bundle"], options)
    else:
        require_subjects([subject, "bundle"], options)


def test_missing_target_is_rejected(tmp_path):
    with pytest.raises(BundleError, match="expected a bundle or a checkpoint"):
        open_segmenter(tmp_path / "none", SegmenterOptions())
    (tmp_path / "c.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="add --size"):
        open_segmenter(tmp_path / "c.pth", SegmenterOptions())


@pytest.mark.data
@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="no shared checkpoint")
def test_shared_checkpoint_reproduces_its_published_accuracy():
    options = SegmenterOptions(size=(352, 480), settings={"window": 10, "shift": 5})
    with open_segmenter(CHECKPOINT, options) as segmenter:
        got = evaluate(segmenter, open_dataset(f"camvid:{SHARED / 'data/camvid'}", "val")).scores
    measured = [got.miou, got.pixel_accuracy, got.mvc[8], got.mvc[16], got.mvc_correct[16]]
    np.testing.assert_allclose(measured, [0.6541, 0.9227, 0.9510, 0.9408, 0.9385], atol=5e-4)
