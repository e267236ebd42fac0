"""State and outputs of ``streamseg run`` over time: events, signals, resuming, killed processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
import pytest

from streamseg.runtime.sources import open_source
from tests.cli.test_run import call, refusal
from tests.runtime.clips import small_disk, write_clip
from tests.runtime.toy import write_toy_bundle

SCENE = "synthetic:clean?size=48x64&fps=10"
COMMAND = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "run"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy")


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """``streamseg run`` in a process of its own, killed at the end."""
    process = subprocess.Popen(
        [*COMMAND, *(str(argument) for argument in arguments), "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def labels(folder: Path) -> dict[str, bytes]:
    """Name -> decoded pixels of every label map."""
    return {
        path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes()
        for path in sorted(folder.glob("*.png"))
    }


def playable_frames(path: Path) -> int:
    """Frames up to the first that does not decode, as a player shows them."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for _ in container.decode(video=0):
                count += 1
    except av.error.FFmpegError:
        pass
    return count


def test_every_output_of_a_run_has_times(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=6)
    options = [
        "--areas",
        tmp_path / "a",
        "--confidence",
        tmp_path / "c",
        "--events",
        tmp_path / "e",
    ]
    assert call("run", bundle, clip, *options) == 0
    areas = lines(tmp_path / "a")
    assert [line["time"] for line in areas] == pytest.approx([i / 10 for i in range(6)])
    assert all(sum(line["areas"].values()) == pytest.approx(1, abs=1e-5) for line in areas)
    assert len(list((tmp_path / "c").glob("*.png"))) == 6
    start, end = lines(tmp_path / "e")
    assert (start["kind"], start["stream"], start["frame"]) == ("start", str(clip), 0)
    assert (end["kind"], end["frame"], end["reason"]) == ("end", 6, "the source ended")
    assert end["timestamp"] == pytest.approx(0.5)


def test_run_with_null_output_writes_nothing(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=6)
    assert call("run", bundle, clip, "--null") == 0
    text = capsys.readouterr().out
    assert "6 frames, not written" in text
    assert "overlay" not in text


def test_outputs_that_the_bundle_cannot_serve_are_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    for graph in content["graphs"].values():
        graph["outputs"] = ["labels"]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "manifest.json").write_text(json.dumps(content))
    run = ("run", plain, SCENE)
    assert "export it again with --logits" in refusal(capsys, *run, "--confidence", tmp_path / "c")
    line = refusal(capsys, *run, "--labels", tmp_path / "l", "--label-ids", "cityscapes")
    assert "classes that Cityscapes does not have: trace" in line
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_outputs_at_the_same_place_are_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--labels", tmp_path / "x", "--confidence", tmp_path / "x"]
    assert call("run", bundle, SCENE, *options) == 2
    assert "--labels and --confidence both write to" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--snapshot-every", 5), "snapshot_every needs a file: set snapshot"),
        (("--scene-cut", "-1"), "neither a number above 0 nor 'off'"),
        (("--gap-reset", "never"), "neither a number above 0 nor 'off'"),
        (("--snapshot", "/proc/state"), "cannot write /proc/state: No such file"),
        (("--snapshot", "/tmp"), "cannot write /tmp: it is a folder"),
        (("--snapshot", "/dev/null"), "cannot write /dev/null: it is a device"),
        (("--resume", "none"), "no such state file: none"),
        (("--resume", __file__), "is not a streamseg state file"),
    ],
)
def test_options_of_state_are_checked(
    bundle: Path, options: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", bundle, SCENE, "--null", *options) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("split", [1, 7, 20])
def test_resumed_run_continues_bit_for_bit_where_it_ended(
    bundle: Path, tmp_path: Path, split: int
) -> None:
    source = (f"{SCENE}&frames=30",)
    assert call("run", bundle, *source, "--labels", tmp_path / "whole") == 0
    state = ("--snapshot", tmp_path / "state", "--resume", tmp_path / "state")
    split_run = ("run", bundle, *source, "--labels", tmp_path / "split", *state)
    assert call(*split_run, "--frames", split) == 0
    assert len(labels(tmp_path / "split")) == split
    assert call(*split_run, "--events", tmp_path / "events") == 0
    assert labels(tmp_path / "split") == labels(tmp_path / "whole")
    kinds = [(line["kind"], line["frame"]) for line in lines(tmp_path / "events")]
    assert kinds == [("restore", split), ("start", split), ("snapshot", 30), ("end", 30)]


def test_state_of_another_source_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, other = write_clip(tmp_path / "a.mp4", fps=10), write_clip(tmp_path / "b.mp4", fps=20)
    run = ("run", bundle, "--null")
    assert call(*run, clip, "--frames", 5, "--snapshot", tmp_path / "state") == 0
    capsys.readouterr()
    line = refusal(capsys, *run, other, "--resume", tmp_path / "state")
    assert "frame 4 of the source is at 0.200 s, that of the state at 0.400 s" in line


def write_joined(path: Path, addresses: list[str]) -> Path:
    """Thirty frames of each scene, one after the other, in one H.264 file."""
    images = []
    for address in addresses:
        with open_source(f"synthetic:{address}&size=96x160&frames=30") as scene:
            images += [frame.image for frame in scene]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_state_is_reset_where_clips_are_joined_and_nowhere_else(
    bundle: Path, tmp_path: Path
) -> None:
    clip = write_joined(tmp_path / "joined.mp4", ["clean?seed=1", "clean?seed=4", "clean?seed=9"])
    run = ("run", bundle, clip, "--null", "--events")
    assert call(*run, tmp_path / "e") == 0
    resets = [line for line in lines(tmp_path / "e") if line["kind"] == "reset"]
    assert [(line["frame"], line["cause"]) for line in resets] == [(30, "cut"), (60, "cut")]
    assert [line["timestamp"] for line in resets] == pytest.approx([1.2, 2.4])
    assert call(*run, tmp_path / "off", "--scene-cut", "off") == 0
    assert [line["kind"] for line in lines(tmp_path / "off")] == ["start", "end"]


def test_signals_reset_and_write_the_state(bundle: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"

    def seen(kind: str) -> list[dict[str, Any]]:
        return [line for line in lines(events) if line["kind"] == kind]

    options = ["--null", "--events", events, "--snapshot", tmp_path / "state", "--realtime"]
    with running(bundle, SCENE, *options) as process:
        wait_for(lambda: events.exists() and bool(seen("start")), process)
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: bool(seen("reset")), process)
        assert not (tmp_path / "state").exists()
        process.send_signal(signal.SIGUSR2)
        wait_for(lambda: bool(seen("snapshot")), process)
        assert (tmp_path / "state").exists()
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    (reset,) = seen("reset")
    assert (reset["cause"], reset["reason"]) == ("request", "signal SIGUSR1")
    assert "reset (request): signal SIGUSR1" in text
    assert len(seen("snapshot")) == 2
    assert seen("end")[0]["reason"] == "stopped by a request"


def test_signals_reach_every_stream_of_a_fleet(bundle: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"
    sources = [f"{name}={SCENE}#realtime" for name in "ab"]
    state = ["--snapshot", tmp_path / "{stream}.state", "--events", events]
    with running(bundle, *sources, "--null", *state) as process:
        wait_for(lambda: events.exists() and len(lines(events)) >= 2, process)
        process.send_signal(signal.SIGUSR2)
        wait_for(lambda: (tmp_path / "b.state").exists(), process)
        wait_for(lambda: (tmp_path / "a.state").exists(), process)
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: sum(line["kind"] == "reset" for line in lines(events)) == 2, process)
        process.send_signal(signal.SIGTERM)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    resets = [line for line in lines(events) if line["kind"] == "reset"]
    assert {(line["stream"], line["reason"]) for line in resets} == {
        ("a", "signal SIGUSR1"), ("b", "signal SIGUSR1")
    }  # fmt: skip
    assert "stopped by a request" in text


def test_streams_of_a_killed_fleet_resume_bit_for_bit(bundle: Path, tmp_path: Path) -> None:
    """The labels are those of each stream run alone and never interrupted."""
    sources = {name: f"{SCENE}&frames=60&seed={seed}" for seed, name in enumerate("abc")}
    for name, source in sources.items():
        assert call("run", bundle, source, "--labels", tmp_path / "alone" / name) == 0
    command: list[object] = [bundle, "--labels", tmp_path / "l" / "{stream}", "--snapshot-every", 7]
    command += ["--snapshot", tmp_path / "{stream}.state", "--resume", tmp_path / "{stream}.state"]
    command += ["--when-behind", "wait"]
    for name, source in sources.items():
        command += [f"{name}={source}"]
    paced = [f"{word}#realtime" if "synthetic:" in str(word) else word for word in command]
    with running(*paced) as process:
        wait_for(lambda: all((tmp_path / f"{n}.state").exists() for n in sources), process)
        process.kill()
    assert any(len(list((tmp_path / "l" / name).glob("*.png"))) < 60 for name in sources)
    with running(*command) as process:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert out.count("restore") == 3
    for name in sources:
        assert labels(tmp_path / "l" / name) == labels(tmp_path / "alone" / name)


@pytest.mark.parametrize(("seeds", "code"), [((1,), 2), ((1, 2), 1)])
def test_unwritable_snapshot_is_a_failure(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seeds: tuple[int, ...],
    code: int,
) -> None:
    given = [f"{SCENE}&frames=5&seed={seed}" for seed in seeds]
    with small_disk(tmp_path / "disk", 1) as disk:
        place = disk / ("{stream}.state" if len(seeds) > 1 else "state")
        (disk / "ballast").write_bytes(b"the one page of this disk")
        options = ["--labels", tmp_path / "l" / "{stream}", "--snapshot", place]
        assert call("run", bundle, *given, *options) == code
        message = capsys.readouterr()
        assert "No space left" in message.out + message.err
        assert not list(disk.glob("*state*"))
    assert len(list((tmp_path / "l").rglob("*.png"))) == 5 * len(seeds)


def test_early_signals_are_ignored(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "new" / "log"
    with running(bundle, SCENE, "--null", "--events", log, "--frames", 5) as process:
        # The log is opened after the signals are prepared and before the bundle is.
        wait_for(log.exists, process)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "5 frames in" in text


def test_killed_runs_leave_playable_video_and_resume_bit_for_bit(
    bundle: Path, tmp_path: Path
) -> None:
    """Twenty processes, killed with SIGKILL at random moments, do one drive together."""
    random = np.random.default_rng(7)
    split, events, done = tmp_path / "split", tmp_path / "events", 0
    file = tmp_path / "state"
    source = (f"{SCENE}&frames=100000",)
    state = ("--snapshot", file, "--snapshot-every", 3, "--resume", file)
    options = ("--labels", split, "--events", events, *state)
    for attempt in range(20):
        with running(bundle, *source, "--out", tmp_path / f"{attempt}.mp4", *options) as process:
            wait_for(lambda before=done: (split / f"{before + 4:06d}.png").exists(), process)
            time.sleep(random.uniform(0, 0.2))
            process.kill()
            process.communicate()
        first = [line["frame"] for line in lines(events) if line["kind"] == "start"][-1]
        assert first <= done
        done = 1 + max(int(path.stem) for path in split.glob("*.png"))
        # A frame goes to the video before its label map is written, and the muxer holds one back;
        # at most four more were on their way from the step.
        assert playable_frames(tmp_path / f"{attempt}.part.mp4") >= done - first - 1
        assert not (tmp_path / f"{attempt}.mp4").exists()
    assert [line["kind"] for line in lines(events)].count("restore") >= 15
    assert call("run", bundle, *source, "--labels", tmp_path / "whole", "--frames", done) == 0
    assert labels(split) == labels(tmp_path / "whole")
