"""``run --show`` where no window can be opened: the page, for one stream and for several."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cli.test_run import call, refusal
from tests.runtime.clips import read_clip, write_clip
from tests.runtime.toy import write_toy_bundle

pytest.importorskip("aiohttp", reason="the page needs the extra 'serve'")

SCENE = "synthetic:clean?size=32x48&fps=25"
SAMPLE = Path(__file__).parents[2] / "samples" / "camera_demo.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "toy")


def start(*command: object) -> subprocess.Popen[str]:
    without = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**{k: v for k, v in os.environ.items() if k not in without}, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job has it ignored, and so would a child of the tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_page(process: subprocess.Popen[str]) -> str:
    """The address that the one line names."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"(http://127\.0\.0\.1:\d+/) shows the pictures; no window: ", line):
            return found[1]
    raise AssertionError(f"no page; exit code {process.wait()}")


def streams_at(url: str, count: int) -> list[dict[str, object]]:
    """What the page lists, once that many streams run."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with urlopen(f"{url}api/streams") as answer:
            found: list[dict[str, object]] = json.load(answer)
        if len([entry for entry in found if entry["frames"]]) == count:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("-m", "streamseg.cli.main", "run", "BUNDLE", SCENE, "--show"), [SCENE]),
        (
            ("-m", "streamseg.cli.main", "run", "BUNDLE", f"a={SCENE}", f"b={SCENE}", "--show"),
            ["a", "b"],
        ),
        ((SAMPLE, "BUNDLE", SCENE), [SCENE]),
    ],
    ids=["one", "two", "camera_demo"],
)
def test_page_shows_the_streams_until_ctrl_c(
    command: tuple[object, ...], names: list[str], bundle: Path
) -> None:
    process = start(*(bundle if word == "BUNDLE" else word for word in command))
    try:
        found = streams_at(wait_for_page(process), len(names))
        assert [entry["name"] for entry in found] == names
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode in (0, 130), out
    assert "Traceback" not in out


def test_files_are_written_at_full_speed_beside_the_page(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.serving.live_page.find_window_problem", lambda: "none here")
    clip = write_clip(tmp_path / "clip.mp4", frames=12, fps=1)  # would last 12 seconds
    begin = time.monotonic()
    assert call("run", bundle, clip, "--show", "--out", tmp_path / "o.mp4") == 0
    assert time.monotonic() - begin < 8
    assert len(read_clip(tmp_path / "o.mp4")) == 12


def test_neither_window_nor_page_is_an_error_before_anything_is_opened(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.serving.live_page.find_window_problem", lambda: "none here")
    monkeypatch.setattr("streamseg.serving.live_page.REQUIRED", ("no_such_module",))
    line = refusal(capsys, "run", bundle, "missing.mp4", "--show")
    assert "cannot open a window: none here; nor the page: no_such_module is not installed" in line
