"""One source over any reader: order, times, rate, loops, reconnects and an orderly end."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from streamseg.errors import SourceError, domain_error
from streamseg.runtime.session.events import Event, EventHandler, EventKind
from streamseg.runtime.sources.clock import SourceClock
from streamseg.runtime.sources.frame import Frame
from streamseg.runtime.sources.options import SourceOptions
from streamseg.runtime.sources.reader import Picture, Reader, UnusableSource
from streamseg.runtime.video.resize import Size

FIRST_PAUSE = 0.5  # seconds before the first attempt to reconnect; doubles from there
STABLE = 10.0  # seconds after which a connection is trusted and pauses are short again

logger = logging.getLogger(__name__)


class Backoff:
    """Pauses between attempts: doubling up to a limit, each shortened by chance by up to half.

    The chance keeps a fleet from knocking all at once on a server that comes back.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._next = min(FIRST_PAUSE, self._longest)

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = self._next * random.uniform(0.5, 1.0)
        self._next = min(2 * self._next, self._longest)
        return pause


class StreamingSource:
    """Frames of a reader, in order, once; see ``Source`` for the contract.

    A live reader that fails or ends is opened again as the options say. ``stop`` and
    ``close`` may be called from any thread: a reader in use is released by the thread that uses
    it, as soon as its read returns.

    Args:
        open_reader: opens the reader; called again for every loop and reconnect.
        name: for messages, without passwords.
        options: how to read.
        on_event: called with events ``lost`` and ``back``, in the thread that iterates.

    Raises:
        SourceError: the reader does not open or has no first picture.
    """

    def __init__(
        self,
        open_reader: Callable[[], Reader],
        name: str,
        options: SourceOptions,
        *,
        on_event: EventHandler | None = None,
    ) -> None:
        self.name = name
        self.on_event = on_event
        self.reconnects = 0
        self.passed_over = 0
        self._open_reader, self._options = open_reader, options
        self._halt = threading.Event()
        self._closed = False
        self._lock = threading.Lock()  # held while the reader is in use
        self._backoff = Backoff(options.backoff)
        self._corrupt_before = 0
        self._index = 0
        self._due = -math.inf
        self._asked = time.monotonic()
        self._silence = 0.0
        self._pace_start: float | None = None
        self._lost_at: float | None = None
        self._reader: Reader | None = None
        self._first: Picture | None = None
        reader, first = self._open()
        self._reader, self._first = reader, first
        self._opened = time.monotonic()
        self._can_reconnect = reader.live
        self._clock = SourceClock(1 / reader.fps, live=reader.live)
        self._slack = 0.5 / reader.fps
        self.live = reader.live or options.realtime
        self.detail = reader.detail
        self.fps = reader.fps if options.fps is None else min(options.fps, reader.fps)
        self.frame_count = None if options.loop else reader.frame_count
        if self.frame_count is not None:
            self.frame_count = math.ceil(self.frame_count * self.fps / reader.fps)
        self.size: Size = first.size

    @property
    def corrupt(self) -> int:
        """Damaged packets and frames skipped so far, over all connections."""
        reader = self._reader
        return self._corrupt_before + (reader.corrupt if reader is not None else 0)

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the end, ``stop`` or ``close``."""
        try:
            while (frame := self._next_frame()) is not None:
                yield frame
        finally:
            if self._closed:
                with self._lock:
                    self._release()

    def _next_frame(self) -> Frame | None:
        while not self._halt.is_set():
            try:
                with self._lock:
                    picture = self._next_picture()
                    frame = None if picture is None else self._deliver(picture)
            except UnusableSource:
                raise
            except Exception as error:
                failure = domain_error(error, SourceError, f"{self.name}: ")
                if not self._can_reconnect:
                    raise failure from failure.__cause__
                self._reconnect(str(failure))
                continue
            if picture is None:
                return None
            if frame is not None and not self._halt.is_set():
                return frame
        return None

    def _next_picture(self) -> Picture | None:
        picture, self._first = self._first, None
        if picture is not None:
            return picture
        if self._reader is None:
            return None
        self._asked = time.monotonic()
        picture = self._reader.read()
        if picture is not None:
            return picture
        if self._can_reconnect:
            raise SourceError("the stream ended")
        if not self._options.loop:
            return None
        self._release()
        self._reader, picture = self._open()
        self._clock.restart()
        return picture

    def _deliver(self, picture: Picture) -> Frame | None:
        """The picture as the next frame; None where the rate passes it over."""
        before = self._clock.last
        timestamp = self._clock.stamp(picture.time, picture.received)
        silence = 0.0 if before is None else timestamp - before
        if self._can_reconnect and self._lost_at is None:
            # A late reader finds pictures waiting; a source that is silent keeps it waiting.
            silence = min(silence, max(0.0, picture.received - self._asked))
        self._silence = max(self._silence, silence)
        if self._lost_at is not None:
            away = picture.received - self._lost_at
            self._lost_at = None
            self._silence = max(self._silence, away)
            height, width = picture.size
            self._tell("back", timestamp, f"after {away:.1f} s, with {height}x{width}")
        if not self._is_due(timestamp):
            self.passed_over += 1
            return None
        image, received = picture.load(), picture.received
        if self._options.realtime and not self._can_reconnect:
            received = self._pace(timestamp)
        self._index += 1
        silence, self._silence = self._silence, 0.0
        return Frame(image, self._index - 1, timestamp, received, picture.truth, silence)

    def _is_due(self, timestamp: float) -> bool:
        if self._options.fps is None:
            return True
        if timestamp < self._due - self._slack:
            return False
        interval = 1 / self._options.fps
        late = timestamp - self._due > interval
        self._due = (timestamp if late else self._due) + interval
        return True

    def _pace(self, timestamp: float) -> float:
        """Wait until the timestamp's time has come; returns that moment."""
        now = time.monotonic()
        if self._pace_start is None:
            self._pace_start = now - timestamp
        self._halt.wait(max(0.0, self._pace_start + timestamp - now))
        return time.monotonic()

    def _reconnect(self, reason: str) -> None:
        """Open the reader again, as often as it takes or the options allow."""
        self._lost_at = time.monotonic()
        if self._lost_at - self._opened >= STABLE:
            self._backoff.reset()
        with self._lock:
            self._release()
        self._tell("lost", self._clock.last or 0.0, reason)
        attempts = 0
        while attempts != self._options.reconnect:
            if self._halt.wait(self._backoff.pause()):
                return
            attempts += 1
            try:
                with self._lock:
                    self._reader, self._first = self._open()
            except UnusableSource:
                raise
            except Exception as error:
                reason = str(domain_error(error, SourceError))
                logger.debug("%s: attempt %d: %s", self.name, attempts, reason)
                continue
            self._opened = time.monotonic()
            self._clock.restart()
            self.reconnects += 1
            return
        tried = f"; gave up after {attempts} attempts to reconnect" if attempts else ""
        raise SourceError(f"{self.name} is lost: {reason}{tried}")

    def _open(self) -> tuple[Reader, Picture]:
        reader = self._open_reader()
        try:
            picture = reader.read()
            if picture is None:
                damaged = f" ({reader.corrupt} damaged packets)" if reader.corrupt else ""
                after = f" from {self._options.start:g} s on" if self._options.start else ""
                raise SourceError(f"{self.name} holds no frame that decodes{after}{damaged}")
        except BaseException:
            reader.close()
            raise
        return reader, picture

    def _release(self) -> None:
        """Close the reader; the caller holds the lock, or nobody else can have it yet."""
        if self._reader is not None:
            self._corrupt_before += self._reader.corrupt
            self._reader.close()
            self._reader = self._first = None

    def _tell(self, kind: EventKind, timestamp: float, reason: str) -> None:
        if self.on_event is not None:
            self.on_event(Event(kind, self.name, self._index, timestamp, reason))
        else:
            logger.warning("%s: %s: %s", self.name, kind, reason)

    def stop(self) -> None:
        """End the iteration: waits end now, a read under way within the time-out."""
        self._halt.set()

    def close(self) -> None:
        """Stop and release; returns at once. A read under way is released when it returns."""
        self._closed = True
        self._halt.set()
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    def __enter__(self) -> StreamingSource:
        """Return the source itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the source."""
        self.close()
