"""Figures of a running stream: rates, latencies and counters that any thread may read."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from streamseg.runtime.session.events import Event
from streamseg.runtime.sources import Frame

RATE_SECONDS = 5.0
LATENCIES_KEPT = 256
# Upper ends of the latency histogram, seconds; one more bucket takes what is above the last.
LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class StreamFigures:
    """A stream's figures at one moment.

    Attributes:
        frames: stepped since the stream joined.
        fps: label maps a second over the last ``RATE_SECONDS``.
        latency: median, and 95th percentile, of the last ``LATENCIES_KEPT`` frames: seconds from
            the frame's arrival to its labels; 0 before the first.
        age: seconds since the last labels; None before the first.
        buckets: frames with a latency of at most each of ``LATENCY_BUCKETS``, then all frames.
        latency_sum: seconds, over all frames.
        events: how often each kind occurred.
        resets: how often the state was forgotten, by cause.
        corrupt: damaged packets and frames that the source left out.
        dropped: frames skipped to keep up.
        late: label maps older than the limit.
    """

    frames: int
    fps: float
    latency: tuple[float, float]
    age: float | None
    buckets: tuple[int, ...]
    latency_sum: float
    events: dict[str, int]
    resets: dict[str, int]
    corrupt: int
    dropped: int
    late: int


@dataclass
class StreamMetrics:
    """Collects a stream's figures, from any thread.

    Attributes:
        frames: stepped so far.
        corrupt: damaged packets and frames skipped; kept up to date by the source's reader.
        dropped: frames skipped; likewise.
        late: label maps older than the limit; likewise.
    """

    frames: int = 0
    corrupt: int = 0
    dropped: int = 0
    late: int = 0
    _latency_sum: float = 0.0
    _done: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT))
    _buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    _events: Counter[str] = field(default_factory=Counter)
    _resets: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, frame: Frame) -> float:
        """Note that ``frame`` has its labels now; gives the latency in seconds."""
        now = time.monotonic()
        latency = now - frame.received
        with self._lock:
            self.frames += 1
            self._done.append(now)
            self._latencies.append(latency)
            self._latency_sum += latency
            self._buckets[bisect_left(LATENCY_BUCKETS, latency)] += 1
        return latency

    def count(self, event: Event) -> None:
        """Note an event."""
        with self._lock:
            self._events[event.kind] += 1
            if event.kind == "reset":
                self._resets[event.cause] += 1

    def read(self) -> StreamFigures:
        """The figures now."""
        now = time.monotonic()
        with self._lock:
            recent = [moment for moment in self._done if now - moment <= RATE_SECONDS]
            latencies = list(self._latencies)
            last = self._done[-1] if self._done else None
            return StreamFigures(
                frames=self.frames,
                fps=_rate(recent, now),
                latency=_quantiles(latencies),
                age=None if last is None else now - last,
                buckets=tuple(accumulate(self._buckets)),
                latency_sum=self._latency_sum,
                events=dict(self._events),
                resets=dict(self._resets),
                corrupt=self.corrupt,
                dropped=self.dropped,
                late=self.late,
            )


def _rate(moments: list[float], now: float) -> float:
    if len(moments) < 2:
        return 0.0
    return len(moments) / max(now - moments[0], 1e-6)


def _quantiles(latencies: list[float]) -> tuple[float, float]:
    if not latencies:
        return 0.0, 0.0
    median, high = np.percentile(latencies, (50, 95))
    return float(median), float(high)
