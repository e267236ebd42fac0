"""Reading a source beside the step."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from streamseg.errors import StreamsegError
from streamseg.option_fields import check_options, option
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.sources import Frame, Source

QUEUE_LENGTH = 4
WAIT = 0.1  # seconds between looks at a stop flag while nothing arrives
PATIENCE = 6.0  # seconds that a read under way gets to return; sources time out after 5

WhenBehind = Literal["drop", "wait"]
OpenSource = Callable[[threading.Event], Source]


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """What happens where a stream is slower than its source.

    Attributes:
        when_behind: ``drop`` or ``wait``; None lets the source decide: live ones drop.
        max_latency: seconds from a frame's arrival to its labels after which they are late; None
            counts none.

    Raises:
        StreamsegError: a value is out of its range.
    """

    when_behind: WhenBehind | None = option(
        "Drop frames in favour of the newest, or let the source wait.",
        default=None,
        unset="drop if it is live",
    )
    max_latency: float | None = option(
        "Count labels as late when they take more than this many seconds.", default=None, above=0
    )

    def __post_init__(self) -> None:
        check_options(self, StreamsegError)


def do_nothing() -> None:
    """A hook that does nothing."""


def as_it_is(frame: Frame) -> Frame:
    """A frame that nothing prepares."""
    return frame


class Decoder(threading.Thread):
    """Reads a source ahead of the step.

    A consumer slower than the source either makes the source wait, or gets the newest
    one: those that it replaced are counted in ``dropped``.

    Args:
        source: iterated in this thread; stopped, not closed, by ``halt``. Or a function that opens
            it, called in this thread, which then also closes it; however long it takes, it gives
            up once the event that it gets is set.
        times: gets the seconds of ``decode`` and ``resize``.
        when_behind: ``drop`` or ``wait``; by default live sources drop and others wait.
        notify: called in this thread when a frame or the end is there to be taken.
        prepare: called in this thread with every frame that will be taken: not where frames may
            be dropped.

    Attributes:
        source: None until it is open.
        error: why the source failed.
        dropped: frames that a newer one replaced.
    """

    def __init__(
        self,
        source: Source | OpenSource,
        times: StageTimes,
        *,
        when_behind: WhenBehind | None = None,
        notify: Callable[[], None] = do_nothing,
        prepare: Callable[[Frame], Frame] = as_it_is,
    ) -> None:
        super().__init__(name="streamseg-decode", daemon=True)
        self.source: Source | None = None if callable(source) else source
        self.error: BaseException | None = None
        self.dropped = 0
        self._open = source if callable(source) else None
        self._when_behind, self._times, self._notify = when_behind, times, notify
        self._prepare = prepare
        self._halt = threading.Event()
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._last_time: float | None = None
        self._over = False

    @property
    def when_behind(self) -> WhenBehind:
        """What happens to frames that come faster than they are taken."""
        live = self.source is not None and self.source.live
        return self._when_behind or ("drop" if live else "wait")

    @property
    def ended(self) -> bool:
        """No frame is left and none will come; ``error`` says if for a bad reason."""
        with self._changed:
            return self._over and not self._frames

    @property
    def waiting(self) -> int:
        """Frames that can be taken now."""
        return len(self._frames)

    def take(self) -> Frame | None:
        """The next frame, None where there is none at the moment."""
        with self._changed:
            frame = self._frames.popleft() if self._frames else None
            self._changed.notify_all()
        return frame

    def wait(self) -> Frame | None:
        """Wait for the next frame; None at the end.

        Raises:
            SourceError: the source failed; all frames before that were given.
        """
        while True:
            with self._changed:
                if not self._frames and not self._over:
                    self._changed.wait(WAIT)
                if not self._frames and not self._over:
                    continue
            frame = self.take()
            if frame is None and self.error is not None:
                raise self.error
            return frame

    def run(self) -> None:
        """Read until the source ends, fails or ``halt`` is called."""
        try:
            if self._open is not None:
                self.source = self._open(self._halt)
            assert self.source is not None
            self._read(self.source)
        except BaseException as error:
            self.error = error
        finally:
            if self._open is not None and self.source is not None:
                self.source.close()
            with self._changed:
                self._over = True
                self._changed.notify_all()
            self._notify()

    def _read(self, source: Source) -> None:
        frames = iter(source)
        while not self._halt.is_set():
            begin = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                break
            decoded = time.perf_counter()
            self._times.add("decode", decoded - begin)
            if self.when_behind == "wait":
                frame = self._prepare(frame)
                self._times.add("resize", time.perf_counter() - decoded)
            self._offer(self._with_silence(frame))

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
        self._notify()

    def ask_to_end(self) -> None:
        """Stop reading soon; returns at once."""
        self._halt.set()
        if self.source is not None:
            self.source.stop()
        with self._changed:
            self._changed.notify_all()

    def halt(self) -> None:
        """Stop reading; a read under way gets ``PATIENCE`` seconds to return.

        One that takes longer, by a long time-out, ends later and on its own.
        """
        self.ask_to_end()
        if self.ident is not None:
            self.join(PATIENCE)
