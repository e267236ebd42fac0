"""From a float32 bundle to an INT8 one, on a tiny network."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import streamseg
from streamseg.calibration import observation
from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.layers import find_layers
from streamseg.calibration.observation import Ranges, observe, read_ranges
from streamseg.calibration.plan import CalibrationOptions
from streamseg.calibration.quantisation import quantise, rank_layers
from streamseg.calibration.replay import Replayer, Segment, choose_segments
from streamseg.cli.main import run
from streamseg.errors import BundleError, DatasetError
from streamseg.evaluation.datasets import Clip, open_dataset
from streamseg.evaluation.drift import ComparisonOptions, compare
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.export import export_bundle, load_checkpoint
from streamseg.export.parity import moving_pattern
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.bundle.bundle import read_bundle
from tests.conftest import SHARED
from tests.evaluation.models import SIZE, write_bundle
from tests.evaluation.trees import make_cityscapes, write_image

LOWERED = BackendOptions(native=False)
CHECKPOINT = SHARED / "checkpoints/tv3s_mit_b0_e64_w10_camvid.pth"


def options(**changes) -> CalibrationOptions:
    return CalibrationOptions(clips=2, clip_frames=4, native=False, drift_frames=20, **changes)


def test_replay_carries_state_as_the_runtime_does(bundle, footage):
    replayer = Replayer(read_bundle(bundle), {"step": ["logits"]}, LOWERED)
    with open_segmenter(bundle, SegmenterOptions(native=False)) as stream:
        for clip in open_dataset(f"footage:{footage}").clips:
            stream.reset()
            replayer.reset()
            for frame in clip:
                tapped = replayer.step(frame.image)[1]["logits"][0]
                np.testing.assert_array_equal(tapped, stream.step(frame.image).logits)


def test_state_shows_in_the_ranges(bundle, footage):
    """Shuffled single images reach other ranges: a replay that lost its state would agree."""
    segments = choose_segments(open_dataset(f"footage:{footage}"), count=2, length=6, seed=0)
    opened = read_bundle(bundle)
    found = [
        observe(opened, segments, LOWERED, order=order, smooth=False).of("step", "minmax")
        for order in ("stateful", "shuffled")
    ]
    last = next(name.source for name in find_layers(_model(opened)) if "1.out_proj" in name.name)
    assert found[0][last] != pytest.approx(found[1][last], rel=1e-3)
    first = next(iter(found[0]))  # in the encoder, before any state
    assert found[0][first] == pytest.approx(found[1][first], rel=1e-5)


def _model(opened):
    return onnx.load_from_string(opened.graphs["step"])


def test_segments_spread_over_the_dataset_and_follow_the_seed(camvid):
    dataset = open_dataset(f"camvid:{camvid}", "val")
    chosen = choose_segments(dataset, count=5, length=2, seed=1)
    assert [segment.stop - segment.start for segment in chosen] == [2] * 5
    assert [segment.start // 4 for segment in chosen] == list(range(5))
    assert choose_segments(dataset, count=5, length=2, seed=1) == chosen
    others = [choose_segments(dataset, count=5, length=2, seed=s) for s in range(2, 6)]
    assert any(other != chosen for other in others)
    assert len(choose_segments(dataset, count=500, length=2, seed=0)) == 10


def test_dataset_without_frames_is_refused():
    class Empty:
        name, fps, frame_count, label_count = "empty", None, 0, 0

        def __iter__(self):
            return iter(())

    clip: Clip = Empty()
    idle = SimpleNamespace(reset=lambda: None)
    with pytest.raises(DatasetError, match="no frame"):
        list(observation._run(idle, [Segment(clip, 0, 4)], "stateful", 0, print))


def test_ranges_survive_json(ranges, tmp_path):
    path = tmp_path / "ranges.json"
    path.write_text(ranges.to_json())
    read = read_ranges(path)
    assert read.of("step", "mse") == ranges.of("step", "mse")
    for name, factors in ranges.smoothing["step"].items():
        np.testing.assert_array_equal(read.smoothing["step"][name], factors)
    with pytest.raises(BundleError, match="no calibrated ranges at"):
        read_ranges(tmp_path)
    path.write_text('{"format": 1}')
    with pytest.raises(BundleError, match="holds no calibrated ranges"):
        read_ranges(path)


def test_ranges_of_another_bundle_are_refused(bundle, ranges):
    other = Ranges("f" * 64, ranges.largest, ranges.smoothing)
    with pytest.raises(BundleError, match="the ranges belong to the bundle ffffffffffff"):
        quantise(read_bundle(bundle), other, "mse")


def test_ranking_finds_the_layer_whose_range_is_spoilt(bundle, ranges, footage):
    layers = find_layers(_model(read_bundle(bundle)))
    spoilt = next(layer for layer in layers if layer.name == "layer1.out_proj")
    largest = {name: dict(values) for name, values in ranges.largest["step"].items()}
    largest[spoilt.source]["mse"] *= 300
    bad = Ranges(ranges.source, {"step": largest}, ranges.smoothing)
    images = [frame.image for frame in open_dataset(f"footage:{footage}").clips[0]][:2]
    ranking = rank_layers(read_bundle(bundle), bad, "mse", images, LOWERED)
    assert ranking[0].name == "layer1.out_proj"
    assert ranking[0].error > 2 * ranking[1].error
    assert len(ranking) == len(layers)


def test_int8_bundle_streams_close_to_float32(bundle, footage, tmp_path):
    target = tmp_path / "int8"
    result = calibrate(bundle, target, open_dataset(f"footage:{footage}"), options(), report=False)
    assert result.kept == ()
    assert result.bytes < result.float_bytes
    manifest = read_bundle(target).manifest
    assert manifest.precision["int8_layers"] == len(result.layers)
    assert "calibration/ranges.json" in manifest.files
    lowered = SegmenterOptions(native=False)
    clip = open_dataset(f"footage:{footage}").clips[0]
    with open_segmenter(bundle, lowered) as a, open_segmenter(target, lowered) as b:
        found = compare(a, b, clip, ComparisonOptions(frames=24))
    assert 0 < found.frames[-1].worst_state < 0.1
    assert np.mean([frame.agreement for frame in found.frames]) > 0.9


def raw_steps(path, images):
    """Logits of every frame, through ONNX Runtime alone: no streamseg but the reading of files."""
    runtime = pytest.importorskip("onnxruntime")
    opened = read_bundle(path)
    session = runtime.InferenceSession(opened.graphs["step"], providers=["CPUExecutionProvider"])
    state = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in opened.manifest.state}
    names = [output.name for output in session.get_outputs()]
    logits = []
    for image in images:
        feeds = {f"{name}.in": value for name, value in state.items()}
        found = dict(zip(names, session.run(None, {"frame": image[None], **feeds}), strict=True))
        state = {name: found[f"{name}.out"] for name in state}
        logits.append(found["logits"][0])
    return logits, state


def test_int8_bundle_measures_itself_against_its_parent(bundle, ranges, tmp_path):
    before = read_bundle(bundle)
    target = tmp_path / "int8"
    result = calibrate(bundle, target, None, options(), ranges=ranges, report=False)
    parity = read_bundle(target).manifest.parity
    assert parity == result.parity
    assert parity["parent"] == before.identity
    assert parity["against"] == "the fp32 bundle that it was made from"
    images = moving_pattern(SIZE, parity["frames"])
    ours, our_state = raw_steps(target, images)
    theirs, their_state = raw_steps(bundle, images)
    largest = max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))
    assert parity["logits_max_abs"] == pytest.approx(float(largest), rel=1e-3)
    assert parity["logits_max_abs"] > 10 * before.manifest.parity["logits_max_abs"]
    agreed = [np.mean(a.argmax(0) == b.argmax(0)) for a, b in zip(ours, theirs, strict=True)]
    assert parity["labels_agreement"] == pytest.approx(np.mean(agreed), abs=1e-3)
    state = max(np.abs(our_state[name] - value).max() for name, value in their_state.items())
    assert parity["state_max_abs"] == pytest.approx(float(state), rel=1e-2)


def test_report_without_matplotlib_mentions_the_missing_plots(
    bundle, footage, tmp_path, monkeypatch
):
    monkeypatch.setattr("streamseg.evaluation.html_page.has_matplotlib", lambda: False)
    calibrate(bundle, tmp_path / "int8", open_dataset(f"footage:{footage}"), options())
    page = (tmp_path / "int8/calibration/report.html").read_text()
    assert "no plot, because matplotlib is not installed" in page
    # Frames are drawn without it.
    assert page.count("<img") == page.count("<figcaption>") > 0


def test_reused_ranges_give_the_same_bundle(bundle, footage, tmp_path):
    dataset = open_dataset(f"footage:{footage}")
    calibrate(bundle, tmp_path / "a", dataset, options(), report=False)
    again = read_ranges(tmp_path / "a")
    calibrate(bundle, tmp_path / "b", None, options(), ranges=again, report=False)
    assert read_bundle(tmp_path / "a").graphs == read_bundle(tmp_path / "b").graphs


def test_frames_of_other_sizes_calibrate(bundle, tmp_path):
    for number, size in enumerate([(50, 21), (21, 50)]):
        write_image(tmp_path / f"two/{number}.png", number, size)
    dataset = open_dataset(f"footage:{tmp_path / 'two'}")
    result = calibrate(bundle, tmp_path / "int8", dataset, options(), report=False)
    assert read_ranges(result.path).record["frames"] == 2


def test_a_single_frame_is_refused_for_a_model_with_state(bundle, tmp_path):
    write_image(tmp_path / "one/0.png", 0, (50, 21))
    one = open_dataset(f"footage:{tmp_path / 'one'}")
    with pytest.raises(DatasetError, match="only clips of one frame"):
        calibrate(bundle, tmp_path / "int8", one, options(), report=False)


@pytest.mark.parametrize("kind", ["corrupt", "interrupted"])
def test_failure_midway_leaves_the_old_bundle_untouched(bundle, tmp_path, kind):
    target = tmp_path / "int8"
    shutil.copytree(bundle, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    for i in range(4):
        write_image(tmp_path / "frames" / f"{i}.png", i, SIZE)
    damaged = tmp_path / "frames" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    dataset = open_dataset(f"footage:{tmp_path / 'frames'}")

    def interrupt(name):  # noqa: ARG001
        raise KeyboardInterrupt

    if kind == "corrupt":
        with pytest.raises(DatasetError, match=r"2\.png is cut off after 100 bytes"):
            calibrate(bundle, target, dataset, options(), report=False)
    else:
        with pytest.raises(KeyboardInterrupt):
            calibrate(
                bundle,
                target,
                dataset,
                options(),
                report=False,
                watch=lambda phase, total: interrupt,  # noqa: ARG005
            )
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "int8"]


def test_calibrate_command_writes_bundle_and_report(bundle, camvid, tmp_path, capsys):
    target = tmp_path / "int8"
    arguments = [str(bundle), "-o", str(target), "--dataset", f"camvid:{camvid}", "--no-native"]
    arguments += ["--clips", "2", "--clip-frames", "3", "--drift-frames", "20", "--keep-float", "1"]
    with pytest.raises(SystemExit) as exit_code:
        run(["calibrate", *arguments, "--test", f"camvid:{camvid}"])
    message = capsys.readouterr().out
    assert exit_code.value.code == 0, message
    manifest = json.loads((target / "manifest.json").read_text())
    assert len(manifest["precision"]["float_layers"]) == 1
    page = (target / "calibration/report.html").read_text()
    assert "calibration/report.html" in manifest["files"]
    # Three plots, and the first, worst and last frame beside float32.
    assert page.count("data:image/png;base64,") in (5, 6)
    assert page.count(", the worst: ") == 2  # the text of the picture, and its caption
    assert '<ul class="legend"><li>' in page
    assert page.count('class="note"') == page.count("programs")
    assert "http" not in page.replace("http-equiv", "")
    for words in ("mIoU, %", "mVC16, %", "faster by", "Most sensitive layers", "state error"):
        assert words in page
    assert "1 kept in float32" in message.replace("\n", " ")


def test_report_has_a_column_for_each_other_bundle(bundle, camvid, tmp_path):
    half = write_bundle(tmp_path / "half", precision="fp16")
    clips = open_dataset(f"camvid:{camvid}", "train", labels=False)
    test = open_dataset(f"camvid:{camvid}", "val")
    result = calibrate(bundle, tmp_path / "int8", clips, options(), test=test, also=[half])
    float32, int8, other = result.report.subjects
    assert (float32.name, int8.name, other.name) == ("float32", "INT8", "FP16 (half)")
    assert other.bytes < float32.bytes
    assert min(subject.step_ms for subject in result.report.subjects) > 0
    assert other.evaluation.scores.frames == int8.evaluation.scores.frames == 20
    errors = [subject.comparison.frames[-1].worst_state for subject in (other, int8)]
    assert 0 < errors[0] < errors[1]  # float16 rounds less than INT8 does
    page = (tmp_path / "int8/calibration/report.html").read_text()
    heads = "".join(f"<th>{name}</th>" for name in ("float32", "INT8", "FP16 (half)"))
    assert page.count(heads) == 2  # the summary and the classes
    assert "Drift of FP16 (half) over 20 frames" in page


def test_threads_reach_what_the_report_times(bundle, footage, tmp_path, monkeypatch):
    threads = []

    def noted(path, **how):
        threads.append(how["threads"])
        return open_bundle(path, **how)

    open_bundle = streamseg.open
    monkeypatch.setattr("streamseg.evaluation.segmenter.open_stream", noted)
    dataset = open_dataset(f"footage:{footage}")
    result = calibrate(bundle, tmp_path / "int8", dataset, options(threads=1))
    assert threads == [1, 1]
    assert ", 1 thread," in result.report.machine


@pytest.mark.parametrize(
    ("kind", "words"),
    [("also", "is missing; make one with"), ("target", "exists and is not a bundle")],
)
def test_wrong_folders_are_reported_before_the_replay(bundle, footage, tmp_path, kind, words):
    def watch(phase, total):
        raise AssertionError(f"{phase} of {total} began")

    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("mine")
    target = tmp_path / ("notes" if kind == "target" else "int8")
    also = [tmp_path / "none"] if kind == "also" else []
    dataset = open_dataset(f"footage:{footage}")
    with pytest.raises(BundleError, match=words):
        calibrate(bundle, target, dataset, options(), also=also, watch=watch)
    assert [path.name for path in tmp_path.rglob("*")] == ["notes", "a.txt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to calibrate on"),
        (["--dataset", "footage:{empty}"], "no images or videos"),
        (["--dataset", "camvid:{empty}"], "SegNet layout"),
        (["--ranges", "{empty}"], "no calibrated ranges at"),
    ],
)
def test_calibrate_command_mistakes_are_one_line(bundle, tmp_path, capsys, arguments, words):
    empty = tmp_path / "empty"
    empty.mkdir()
    filled = [argument.format(empty=empty) for argument in arguments]
    with pytest.raises(SystemExit) as exit_code:
        run(["calibrate", str(bundle), "-o", str(tmp_path / "int8"), *filled])
    error = capsys.readouterr().err.strip()
    assert exit_code.value.code == 2
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize("role", ["source", "also"])
def test_input_bundles_are_never_replaced(bundle, footage, tmp_path, capsys, role):
    (tmp_path / "link").symlink_to(bundle.parent)
    given = ["--dataset", f"footage:{footage}"]
    if role == "also":
        given += ["--also", str(tmp_path / "link" / bundle.name)]
    source = bundle if role == "source" else write_bundle(tmp_path / "other")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as exit_code:
        run(["calibrate", str(source), "-o", str(bundle), *given])
    assert exit_code.value.code == 2
    assert "is itself a bundle to read" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_bundle_without_logits_calibrates_the_same_layers(footage, tmp_path, graph):
    source = write_bundle(tmp_path / "plain", logits=False)
    dataset = open_dataset(f"footage:{footage}")
    result = calibrate(source, tmp_path / "int8", dataset, options(), report=False)
    assert list(result.layers) == [layer.name for layer in find_layers(graph)]


@pytest.mark.data
@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="no shared checkpoint")
def test_int8_of_a_trained_network_stays_close_on_real_video(tmp_path):
    model = load_checkpoint(CHECKPOINT, settings={"window": 10, "shift": 5})
    export_bundle(model, tmp_path / "float", size=(352, 480), logits=True)
    root = f"camvid:{SHARED / 'data/camvid'}"
    chosen = CalibrationOptions(clips=4, clip_frames=4)
    train = open_dataset(root, "train", labels=False)
    result = calibrate(tmp_path / "float", tmp_path / "int8", train, chosen, report=False)
    assert result.float_bytes > 3 * result.bytes
    options = SegmenterOptions()
    clip = open_dataset(root, "val").clips[0]
    with (
        open_segmenter(tmp_path / "float", options) as a,
        open_segmenter(tmp_path / "int8", options) as b,
    ):
        found = compare(a, b, clip, ComparisonOptions(frames=40))
    assert min(frame.agreement for frame in found.frames) > 0.99
    assert max(frame.worst_state for frame in found.frames) < 0.08
    assert found.trend() == "saturates"


def test_images_that_do_not_exercise_the_state_are_refused_in_one_line(bundle, tmp_path, capsys):
    root = make_cityscapes(tmp_path / "city", "train", sequences=False)
    arguments = ["calibrate", str(bundle), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as code:
        run([*arguments, "--dataset", f"cityscapes:{root}"])
    assert code.value.code == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    for part in (
        "clips of one frame, which do not exercise the state",
        "leftImg8bit_sequence_trainvaltest.zip",
        "--dataset footage:VIDEO",
    ):
        assert part in message
    assert not (tmp_path / "out").exists()
