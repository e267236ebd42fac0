from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.cli.main import run
from tests.runtime.clips import join_clips, read_clip, small_disk, write_clip, write_folder
from tests.runtime.toy import HEIGHT, WIDTH, ToyReference, write_toy_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The error of a command that exits 2; before it there may be phases that took long."""
    assert call(*arguments) == 2
    *phases, error = capsys.readouterr().err.splitlines()
    assert all(line.endswith(" ...") for line in phases)
    return error


def test_run_writes_all_outputs_and_a_summary(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = write_clip(tmp_path / "clip.mp4", frames=9), tmp_path / "out"
    options = ["--out", out / "o.mp4", "--labels", out / "labels", "--sheet", out / "s.png"]
    assert call("run", bundle, clip, *options) == 0
    text = capsys.readouterr().out
    for stage in ("decode", "resize", "preprocess", "step", "overlay", "encode"):
        assert re.search(rf"{stage}\W+\d+\.\d\d\W+\d+\.\d\d", text)
    assert "onnxruntime" in text
    assert re.search(r"^9 frames in .* fps", text, re.MULTILINE)
    assert f"{out / 'o.mp4'}: 9 frames, H.264 48x64" in text
    assert "interrupted" not in text
    assert len(read_clip(out / "o.mp4")) == 9
    assert len(list((out / "labels").glob("*.png"))) == 9
    assert sorted(path.name for path in out.iterdir()) == ["labels", "o.mp4", "s.png"]


def test_labels_are_those_of_the_model_with_state(bundle: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", [(HEIGHT, WIDTH)] * 8)
    assert call("run", bundle, folder, "--labels", tmp_path / "labels") == 0
    reference = ToyReference()
    for index in range(8):
        bgr = cv2.imread(str(folder / f"{index + 1}.png"))
        expected = reference.step(bgr[..., ::-1]).argmax(axis=0)
        name = str(tmp_path / "labels" / f"{index:06d}.png")
        np.testing.assert_array_equal(cv2.imread(name, cv2.IMREAD_UNCHANGED), expected)


def test_frames_ends_the_run(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=9)
    assert call("run", bundle, clip, "--out", tmp_path / "o.mp4", "--frames", 4) == 0
    assert "4 frames in" in capsys.readouterr().out
    assert len(read_clip(tmp_path / "o.mp4")) == 4


def test_letterbox_reaches_the_stream(bundle: Path, tmp_path: Path) -> None:
    folder, seen = tmp_path / "images", []
    folder.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (12, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), noise)
    for option in ("--letterbox", "--stretch"):
        labels = tmp_path / option
        assert call("run", bundle, folder, "--labels", labels, option) == 0
        seen.append(cv2.imread(str(labels / "000002.png"), cv2.IMREAD_UNCHANGED))
    assert (seen[0] != seen[1]).any()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_playable_file_and_truthful_summary(
    bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, labels = tmp_path / "o.mp4", tmp_path / "labels"
    source = "synthetic:clean?size=96x128&fps=10"
    command = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "run", bundle]
    options = [source, "--out", out, "--labels", labels, "--threads", "1"]
    process = subprocess.Popen(
        [str(word) for word in (*command, *options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (labels / "000010.png").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        text, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number, errors
    match = re.search(rf"interrupted by {number.name} after (\d+) frames", text)
    assert match
    frames = int(match[1])
    assert frames > 10
    assert len(read_clip(out)) == frames
    assert len(list(labels.glob("*.png"))) == frames
    assert f"{out}: {frames} frames" in text
    assert not list(tmp_path.glob(".*.part"))


def test_missing_video_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "run", bundle, "none.mp4", "--out", tmp_path / "o.mp4")
    assert line == "streamseg: no such video: none.mp4"
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_absent_camera_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "run", bundle, 987, "--out", tmp_path / "o.mp4")
    assert line.startswith("streamseg: no camera 987: ")


def test_missing_bundle_is_rejected_and_outputs_are_cleared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    options = ["--out", tmp_path / "o.mp4", "--labels", tmp_path / "l"]
    line = refusal(capsys, "run", tmp_path / "none", clip, *options)
    assert "none is missing" in line
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_changed_bundle_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((bundle / "step.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "step.onnx").write_bytes(content)
    clip = write_clip(tmp_path / "clip.mp4")
    line = refusal(capsys, "run", bundle, clip, "--out", tmp_path / "o.mp4")
    assert "changed or damaged" in line
    assert not list(tmp_path.glob("*o.mp4*"))


def test_unwritable_output_is_refused_before_the_bundle_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    line = refusal(capsys, "run", "no-bundle", clip, "--out", "/proc/o.mp4")
    assert line.startswith("streamseg: --out: cannot write /proc/o.mp4")


@pytest.mark.parametrize("option", ["--out", "--areas", "--events", "--snapshot"])
def test_source_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    before = clip.read_bytes()
    line = refusal(capsys, "run", "no-bundle", clip, "--null", option, clip)
    assert line == f"streamseg: {clip} is a source; write to another place"
    assert clip.read_bytes() == before


def test_run_without_outputs_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", bundle, "0") == 2
    assert "no output is selected: add --out, --labels, " in capsys.readouterr().err


def test_change_of_geometry_is_an_event_and_begins_the_next_file(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = join_clips(tmp_path / "joined.ts", [(48, 64), (32, 80)])
    assert call("run", bundle, clip, "--out", tmp_path / "o.mp4") == 0
    text = capsys.readouterr().out
    assert "frame 5 at 0.500 s: reset (geometry): frames are 32x80 from here on" in text
    assert "state reset 1 time: 1 by geometry" in text
    assert f"{tmp_path / 'o-2.mp4'}: 5 frames, H.264 32x80" in text
    assert [len(read_clip(tmp_path / name)) for name in ("o.mp4", "o-2.mp4")] == [5, 5]


def test_full_disk_is_one_line_and_leaves_playable_video(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "images", [(480, 640)] * 40)
    with small_disk(tmp_path / "disk", 16) as disk:
        line = refusal(capsys, "run", bundle, folder, "--out", disk / "o.mp4")
        assert re.search(r"cannot write .*o\.mp4: No space left on device \(0\.0 MiB free", line)
        assert [path.name for path in disk.iterdir()] == ["o.part.mp4"]
        assert read_clip(disk / "o.part.mp4")
