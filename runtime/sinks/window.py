"""Windows on the desktop, drawn by pygame-ce, and the output that goes nowhere."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from streamseg.counting import count_of
from streamseg.errors import SinkError
from streamseg.installation import install_command
from streamseg.runtime.sinks.sink import SegmentedFrame
from streamseg.runtime.video.resize import Image

# Toolkits want all calls from one thread, also where several streams have a window each.
_GUI = ThreadPoolExecutor(1, thread_name_prefix="window")
# One of them names where windows go; SDL takes the last for consoles without a desktop.
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
NOWHERE = ("dummy", "offscreen")  # SDL's drivers without a screen
MARGIN = 0.9  # of the desktop that a new window may cover


def has_toolkit() -> bool:
    """Whether pygame-ce is installed; the older pygame has no windows of its own."""
    return importlib.util.find_spec("pygame") is not None and hasattr(_load_pygame(), "Window")


def find_window_problem() -> str:
    """Why no window can be opened here; empty where one can."""
    if not has_toolkit():
        return f"pygame-ce is not installed ({install_command('window')})"
    return find_display_problem()


def find_display_problem() -> str:
    """Why there is no display; empty where there is one, or seems to be without the toolkit."""
    if not any(os.environ.get(name) for name in DISPLAYS):
        return "there is no display: DISPLAY and WAYLAND_DISPLAY are not set"
    return _GUI.submit(_try_display).result() if has_toolkit() else ""


def _try_display() -> str:
    pygame = _load_pygame()
    try:
        pygame.display.init()
    except pygame.error as error:
        return f"the display cannot be used: {error}"
    # Where no display answers, SDL takes a driver that draws nowhere.
    if pygame.display.get_driver() in NOWHERE and not os.environ.get("SDL_VIDEODRIVER"):
        pygame.display.quit()
        return "the display cannot be used: it does not answer"
    return ""


def _load_pygame() -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    # SIGTERM must end the program; SDL would make an event of it.
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    return importlib.import_module("pygame")


def require_windows() -> None:
    """Check that windows can be opened.

    Raises:
        SinkError: they cannot; the message says why, and what to do.
    """
    if problem := find_window_problem():
        raise SinkError(f"cannot open a window: {problem}. Write a file, or use: streamseg serve")


class WindowSink:
    """Shows the pictures; Escape, q or closing the window ends the run.

    Args:
        title: of the window.
        on_close: called once when the user wants to end.

    Raises:
        SinkError: the extra ``window`` is not installed, or there is no display.
    """

    needs_picture = True
    needs_confidence = False

    def __init__(self, title: str, on_close: Callable[[], None]) -> None:
        require_windows()
        self._title, self._on_close = title, on_close
        self._frames = 0
        self._window: Any = None
        self._closed = False

    @property
    def path(self) -> Path:
        """Nothing is written."""
        return Path(os.devnull)

    def write(self, frame: SegmentedFrame) -> None:
        """Show one picture. Raises SinkError."""
        if not self._closed:
            _GUI.submit(self._show, frame.picture).result()

    def _show(self, picture: Image) -> None:
        pygame = _load_pygame()
        try:
            if self._window is None:
                self._window = _make_window(pygame, self._title, picture)
                _OPEN[self._window] = self
            _draw(pygame, self._window, picture)
            wanted = _windows_to_close(pygame)
        except pygame.error as error:
            raise SinkError(f"cannot show a window: {error}") from None
        self._frames += 1
        for window in wanted:
            _OPEN[window]._end()

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._destroy()
            self._on_close()

    def _destroy(self) -> None:
        if self._window is not None:
            _OPEN.pop(self._window, None)
            self._window.destroy()
            self._window = None

    def finish(self) -> str:
        """Close the window."""
        self.discard()
        return f"window: {count_of(self._frames, 'frame')}"

    def discard(self) -> None:
        """Close the window."""
        self._closed = True
        if self._window is not None:
            _GUI.submit(self._destroy).result()


_OPEN: dict[Any, WindowSink] = {}  # used in the thread of the toolkit


def _make_window(pygame: Any, title: str, picture: Image) -> Any:
    """A window of the picture's size, or of most of the desktop where that is smaller."""
    height, width = picture.shape[:2]
    room = pygame.display.get_desktop_sizes()[0]
    scale = min(1.0, MARGIN * room[0] / width, MARGIN * room[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return pygame.Window(title, size, resizable=True)


def _draw(pygame: Any, window: Any, picture: Image) -> None:
    """Draw the picture as large as the window allows, in its own shape."""
    height, width = picture.shape[:2]
    surface = window.get_surface()
    room = surface.get_size()
    scale = min(room[0] / width, room[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    drawn = pygame.image.frombuffer(picture.tobytes(), (width, height), "RGB")
    if size != (width, height):
        drawn = pygame.transform.smoothscale(drawn, size)
    surface.fill((0, 0, 0))
    surface.blit(drawn, ((room[0] - size[0]) // 2, (room[1] - size[1]) // 2))
    window.flip()


def _windows_to_close(pygame: Any) -> list[Any]:
    """The windows that the user wants to close."""
    wanted = []
    for event in pygame.event.get((pygame.QUIT, pygame.WINDOWCLOSE, pygame.KEYDOWN)):
        keys = (pygame.K_ESCAPE, pygame.K_q)
        if event.type == pygame.QUIT:
            wanted += list(_OPEN)
        elif event.type == pygame.WINDOWCLOSE or event.key in keys:
            wanted.append(event.window)
    pygame.event.clear()
    return [window for window in dict.fromkeys(wanted) if window in _OPEN]


class NullSink:
    """Takes frames and writes nothing: for measuring, or for the policy's events alone."""

    needs_picture = False
    needs_confidence = False

    def __init__(self) -> None:
        self._frames = 0

    @property
    def path(self) -> Path:
        """Nothing is written."""
        return Path(os.devnull)

    def write(self, frame: SegmentedFrame) -> None:  # noqa: ARG002
        """Count one frame."""
        self._frames += 1

    def finish(self) -> str:
        """Report how many there were."""
        return f"{count_of(self._frames, 'frame')}, not written"

    def discard(self) -> None:
        """Nothing was written."""
