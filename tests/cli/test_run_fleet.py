from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.runtime.video.resize import Image
from tests.cli.test_run import call, refusal
from tests.runtime.clips import read_clip, small_disk, write_clip, write_folder
from tests.runtime.toy import HEIGHT, WIDTH, ToyReference, write_toy_bundle

SCENE = "synthetic:clean?size=32x48&fps=20"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


def label_maps(folder: Path) -> list[Image]:
    files = sorted(folder.glob("*.png"))
    return [np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)) for file in files]


def test_every_source_writes_what_it_writes_alone(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "images", [(HEIGHT, WIDTH)] * 8)
    clip = write_clip(tmp_path / "clip.mp4", frames=9)
    out = tmp_path / "out"
    places = ["--out", out / "{stream}.mp4", "--labels", out / "{stream}"]
    places += ["--areas", out / "{stream}.jsonl", "--events", out / "events.jsonl"]
    sources = [f"front={folder}", clip, "--scene-cut", "off"]
    assert call("run", bundle, *sources, *places, "--threads", 1) == 0
    text = capsys.readouterr().out
    assert re.search(r"front\W+8\W", text)
    assert re.search(r"stream2\W+9\W", text)
    assert f"{out / 'front.mp4'}: 8 frames" in text
    reference = ToyReference()
    for index, labels in enumerate(label_maps(out / "front")):
        bgr = cv2.imread(str(folder / f"{index + 1}.png"))
        np.testing.assert_array_equal(labels, reference.step(bgr[..., ::-1]).argmax(axis=0))
    alone = tmp_path / "alone"
    single = [clip, "--scene-cut", "off", "--labels", alone, "--threads", 1]
    assert call("run", bundle, *single) == 0
    np.testing.assert_array_equal(label_maps(out / "stream2"), label_maps(alone))
    assert len(read_clip(out / "stream2.mp4")) == 9
    assert len((out / "front.jsonl").read_text().splitlines()) == 8
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert {(event["stream"], event["kind"]) for event in events} == {
        (stream, kind) for stream in ("front", "stream2") for kind in ("start", "end")
    }
    assert not list(out.glob("*.part*"))


def test_frames_limits_every_stream(bundle: Path, tmp_path: Path) -> None:
    sources = [SCENE, f"{SCENE}&seed=2"]
    labels = ["--labels", tmp_path / "{stream}", "--frames", 3, "--threads", 1]
    assert call("run", bundle, *sources, *labels) == 0
    assert [len(label_maps(tmp_path / f"stream{i}")) for i in (1, 2)] == [3, 3]


def test_failed_stream_ends_alone_with_exit_code_1(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "images", [(HEIGHT, WIDTH)] * 5)
    _, floats = cv2.imencode(".tiff", np.ones((HEIGHT, WIDTH, 3), np.float32))
    (folder / "4.png").write_bytes(floats.tobytes())
    good = write_folder(tmp_path / "good", [(HEIGHT, WIDTH)] * 5)
    sources = [f"bad={folder}", f"good={good}", "none=no.mp4"]
    labels = ["--labels", tmp_path / "labels" / "{stream}", "--threads", 1]
    assert call("run", bundle, *sources, *labels) == 1
    text = capsys.readouterr().out
    assert "4.png holds float32 values" in text
    assert "no such video: no.mp4" in text
    assert len(label_maps(tmp_path / "labels" / "good")) == 5
    assert len(label_maps(tmp_path / "labels" / "bad")) == 3


def test_full_disk_ends_the_stream_that_writes_there(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = "synthetic:street?size=240x320&fps=20"
    listed = tmp_path / "streams.toml"
    with small_disk(tmp_path / "disk", 300) as disk:
        listed.write_text(
            f'[streams.full]\nsource = "{scene}"\nout = "{disk}/o.mp4"\n'
            f'[streams.good]\nsource = "{scene}"\nlabels = "{tmp_path}/good"\n'
        )
        process = start(bundle, "--streams", listed, log=tmp_path / "log")
        wait_for_text(tmp_path / "log", "cannot write")
        seen = len(list((tmp_path / "good").glob("*.png")))
        wait_for(lambda: len(list((tmp_path / "good").glob("*.png"))) > seen + 3)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert "Traceback" not in (tmp_path / "log").read_text()
    capsys.readouterr()


def start(bundle: Path, *options: object, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from streamseg.cli.main import run; run()", "run"]
    arguments = [str(bundle), *map(str, options), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with log.open("wb") as output:
        return subprocess.Popen(
            command + arguments, stdout=output, stderr=subprocess.STDOUT, env=environment
        )


def wait_for(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for_text(log: Path, text: str) -> None:
    wait_for(lambda: text in log.read_text())


def test_list_is_read_again_on_hangup(bundle: Path, tmp_path: Path) -> None:
    """Streams join and leave; what one wrote is complete when it left; a bad list is refused."""
    listed, out, log = tmp_path / "streams.toml", tmp_path / "out", tmp_path / "log"
    defaults = f'[defaults]\nout = "{out}/{{stream}}.mp4"\nlabels = "{out}/{{stream}}"\n'
    defaults += "realtime = true\n"
    first, second = (f'[streams.{n}]\nsource = "{SCENE}&seed={n[-1]}"\n' for n in ("s1", "s2"))
    listed.write_text(defaults + first)
    process = start(bundle, "--streams", listed, log=log)
    try:
        wait_for(lambda: len(list((out / "s1").glob("*.png"))) > 3)
        listed.write_text(defaults + second)
        process.send_signal(signal.SIGHUP)
        wait_for_text(log, "streams that left: s1; joined: s2")
        wait_for((out / "s1.mp4").exists)
        wait_for(lambda: len(list((out / "s2").glob("*.png"))) > 3)
        listed.write_text("[")
        process.send_signal(signal.SIGHUP)
        wait_for_text(log, "the list was not changed: ")
        seen = len(list((out / "s2").glob("*.png")))
        wait_for(lambda: len(list((out / "s2").glob("*.png"))) > seen + 3)
    finally:
        process.terminate()
        code = process.wait(30)
    text = log.read_text()
    assert code == 128 + signal.SIGTERM, text
    assert "Traceback" not in text
    for name in ("s1", "s2"):
        assert len(read_clip(out / f"{name}.mp4")) == len(label_maps(out / name)) > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--null"], "expected one or more SOURCEs"),
        (["0", "1"], "no output is selected"),
        (["a=0", "a=1", "--null"], "two sources are called 'a'"),
        (["0", "1", "--out", "x.mp4"], "both write out to x.mp4"),
        (["0", "1", "--null", "--snapshot", "s"], "both write snapshot"),
        (["0", "--streams", "s.toml", "--null"], "expected one or more SOURCEs"),
        (["--streams", "none.toml", "--null"], "cannot read the streams"),
    ],
)
def test_mistakes_are_reported(
    bundle: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", bundle, *options) == 2
    assert message in capsys.readouterr().err


def test_a_single_named_source_needs_no_fleet(bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a=b.mp4", frames=3)
    assert call("run", bundle, clip, "--null", "--threads", 1) == 0


def test_missing_bundle_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["0", "1", "--null"]
    assert str(tmp_path / "none") in refusal(capsys, "run", tmp_path / "none", *given)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_unit_is_valid(tmp_path: Path) -> None:
    """The unit with an executable that exists here in place of the installed one."""
    text = (ROOT / "samples" / "streamseg.service").read_text()
    (installed,) = re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)
    unit = tmp_path / "streamseg.service"
    unit.write_text(text.replace(installed, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
