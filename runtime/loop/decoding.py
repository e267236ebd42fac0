"""Reading a source beside the step."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.sources import Frame, Source

QUEUE_LENGTH = 4
WAIT = 0.1  # seconds between looks at a stop flag while nothing arrives
PATIENCE = 6.0  # seconds that a read under way gets to return; sources time out after 5

WhenBehind = Literal["drop", "wait"]


class Decoder(threading.Thread):
    """Reads a source ahead of the step.

    Who takes frames more slowly than they come either makes the source wait, or gets the newest
    one: those that it replaced are counted in ``dropped``.

    Args:
        source: iterated in this thread; stopped, not closed, by ``halt``.
        times: gets the seconds of ``decode``.
        when_behind: ``drop`` or ``wait``; by default live sources drop and others wait.
        notify: called in this thread when a frame or the end is there to be taken.
    """

    def __init__(
        self,
        source: Source,
        times: StageTimes,
        *,
        when_behind: WhenBehind | None = None,
        notify: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(name="streamseg-decode", daemon=True)
        self.error: BaseException | None = None
        self.dropped = 0
        self.when_behind: WhenBehind = when_behind or ("drop" if source.live else "wait")
        self._source, self._times, self._notify = source, times, notify
        self._halt = threading.Event()
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._last_time: float | None = None
        self._over = False

    @property
    def ended(self) -> bool:
        """No frame is left and none will come; ``error`` says if for a bad reason."""
        with self._changed:
            return self._over and not self._frames

    @property
    def waiting(self) -> int:
        """Frames that can be taken now."""
        return len(self._frames)

    def peek(self) -> Frame | None:
        """What ``take`` would give now; a newer frame may replace it before that."""
        with self._changed:
            return self._frames[0] if self._frames else None

    def take(self) -> Frame | None:
        """The next frame, None where there is none at the moment."""
        with self._changed:
            frame = self._frames.popleft() if self._frames else None
            self._changed.notify_all()
        return frame

    def wait(
        self, stop: threading.Event | None = None, meanwhile: Callable[[], None] | None = None
    ) -> Frame | None:
        """Wait for the next frame; None at the end or once ``stop`` is set.

        Args:
            stop: ends the wait.
            meanwhile: called several times a second while no frame comes.
        Raises:
            SourceError: the source broke off; all frames before that were given.
        """
        while stop is None or not stop.is_set():
            with self._changed:
                if not self._frames and not self._over:
                    self._changed.wait(WAIT)
                waiting = not self._frames and not self._over
            if waiting:
                if meanwhile is not None:
                    meanwhile()
                continue
            frame = self.take()
            if frame is None and self.error is not None:
                raise self.error
            return frame
        return None

    def run(self) -> None:
        """Read until the source ends, breaks off or ``halt`` is called."""
        try:
            frames = iter(self._source)
            while not self._halt.is_set():
                begin = time.perf_counter()
                frame = next(frames, None)
                if frame is None:
                    break
                self._times.add("decode", time.perf_counter() - begin)
                self._offer(self._with_silence(frame))
        except BaseException as error:
            self.error = error
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._tell()

    def _with_silence(self, frame: Frame) -> Frame:
        """The frame with its silence filled in, where its source does not say."""
        last, self._last_time = self._last_time, frame.timestamp
        if frame.silence is not None:
            return frame
        return replace(frame, silence=0.0 if last is None else frame.timestamp - last)

    def _offer(self, frame: Frame) -> None:
        with self._changed:
            if self.when_behind == "drop" and self._frames:
                self.dropped += len(self._frames)
                # A frame that nobody took is no silence of the source; one before it still is.
                silence = max(item.silence or 0.0 for item in (*self._frames, frame))
                frame = replace(frame, silence=silence)
                self._frames.clear()
            while len(self._frames) >= QUEUE_LENGTH and not self._halt.is_set():
                self._changed.wait(WAIT)
            self._frames.append(frame)
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._notify is not None:
            self._notify()

    def halt(self) -> None:
        """Stop reading; a read under way gets ``PATIENCE`` seconds to return.

        One that takes longer, by a long time-out, ends later and on its own.
        """
        self._halt.set()
        self._source.stop()
        with self._changed:
            self._changed.notify_all()
        if self.ident is not None:
            self.join(PATIENCE)
