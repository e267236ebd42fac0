"""Windows on a real X server without a screen; skipped where there is none."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.errors import SinkError
from streamseg.installation import install_command
from streamseg.runtime.sinks import WindowSink, window

# Prints what of the X server's screen the picture became, and how the run ended.
SHOW = """
import sys
import numpy as np
from streamseg.runtime.sinks.window import _GUI, WindowSink, _load_pygame
from tests.runtime.sinks.test_sinks import segmented

ended = []
sinks = [WindowSink(name, lambda name=name: ended.append(name)) for name in ("left", "right")]
for index in range(3):
    for sink in sinks:
        sink.write(segmented(index))
pygame = _load_pygame()
surface = sinks[0]._window.get_surface()
seen = np.swapaxes(pygame.surfarray.array3d(surface), 0, 1)
assert seen.shape == (48, 64, 3), seen.shape
np.testing.assert_array_equal(seen, segmented(2).picture)
key = {"key": pygame.K_q, "window": sinks[0]._window}
_GUI.submit(pygame.event.post, pygame.event.Event(pygame.KEYDOWN, key)).result()
for index in range(3, 6):
    for sink in sinks:
        sink.write(segmented(index))
assert ended == ["left"], ended
close = {"window": sinks[1]._window}
_GUI.submit(pygame.event.post, pygame.event.Event(pygame.WINDOWCLOSE, close)).result()
sinks[1].write(segmented(6))
assert ended == ["left", "right"], ended
print([sink.finish() for sink in sinks])
"""
LARGE = """
from streamseg.runtime.sinks.window import WindowSink
from tests.runtime.sinks.test_sinks import segmented

sink = WindowSink("large", lambda: None)
sink.write(segmented(0, (2000, 3000)))
print(sink._window.size)
sink._window.size = (100, 400)  # as the user drags it
sink.write(segmented(1, (2000, 3000)))
import numpy as np, pygame
seen = np.swapaxes(pygame.surfarray.array3d(sink._window.get_surface()), 0, 1)
rows = np.flatnonzero(seen.any(axis=(1, 2)))
print(seen.shape, rows[0], rows[-1])
sink.discard()
"""
TERMINATED = """
import time
from streamseg.runtime.sinks.window import WindowSink
from tests.runtime.sinks.test_sinks import segmented
sink = WindowSink("ended", lambda: None)
sink.write(segmented(0))
print("shown", flush=True)
while True:
    sink.write(segmented(1))
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """An X server with a screen of 1280x720 in memory."""
    pytest.importorskip("pygame", reason="windows need the extra 'window'")
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("Xvfb is missing: make stream-tools")
    read, write = os.pipe()
    arguments = [
        server,
        "-displayfd",
        str(write),
        "-screen",
        "0",
        "1280x720x24",
        "-nolisten",
        "tcp",
    ]
    process = subprocess.Popen(arguments, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    process.terminate()
    process.wait(10)


def start(script: str, display: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in window.DISPLAYS}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**environment, "DISPLAY": display},
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_windows_show_pictures_until_a_key_or_their_button(display: str) -> None:
    done = start(SHOW, display)
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert out.strip() == "['window: 4 frames', 'window: 7 frames']"


def test_large_pictures_fit_the_desktop_and_keep_their_shape(display: str) -> None:
    done = start(LARGE, display)
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    first, second = out.strip().splitlines()
    assert first == "(972, 648)"  # nine tenths of the screen's height
    # 100x400 holds 67 rows of the picture, in the middle.
    assert second.startswith("(400, 100, 3)")
    top, bottom = map(int, second.split()[3:])
    assert abs(top - 166) <= 2
    assert abs(bottom - 233) <= 2


def test_sigterm_still_ends_the_program(display: str) -> None:
    with start(TERMINATED, display) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "shown\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in window.DISPLAYS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_display")
def test_problem_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame", reason="windows need the extra 'window'")
    assert window.find_window_problem().startswith("there is no display: DISPLAY and WAYLAND")
    with pytest.raises(SinkError, match=r"cannot open a window: there is no display.*Write a file"):
        WindowSink("title", lambda: None)
    monkeypatch.setattr(window.importlib.util, "find_spec", lambda _name: None)
    expected = re.escape(f"pygame-ce is not installed ({install_command('window')})")
    with pytest.raises(SinkError, match=expected):
        WindowSink("title", lambda: None)


def test_display_that_does_not_answer_is_a_problem() -> None:
    pytest.importorskip("pygame", reason="windows need the extra 'window'")
    script = "from streamseg.runtime.sinks.window import find_window_problem as f; print(f())"
    done = start(script, ":4711")
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0, err
    assert out.startswith("the display cannot be used: ")


def test_package_metadata_has_no_second_opencv() -> None:
    """Two OpenCV packages write the same files; ``pip check`` does not see it."""
    tomli = pytest.importorskip("tomli")
    path = Path(__file__).parents[3] / "pyproject.toml"
    project = tomli.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    needed = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    kinds = {entry.partition(">")[0] for entry in needed if entry.startswith("opencv")}
    assert kinds == {"opencv-python-headless"}
