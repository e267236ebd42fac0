"""Timestamps of a stream from the times that its source gives."""

from __future__ import annotations

TOLERANCE = 10.0  # seconds by which a live source's time may differ from this machine's


class SourceClock:
    """Turns the times of a source into timestamps that never go back.

    Times of the source are taken as they are, from the first on. Where it gives none, where they
    restart (another connection, a loop) or jump, the timestamps continue by the time that passed
    in between: the arrival times of a live source, one frame of any other.

    Args:
        frame: seconds from one frame to the next.
        live: the time that passes is this machine's.
    """

    def __init__(self, frame: float, *, live: bool) -> None:
        self.last: float | None = None
        self._frame, self._live = frame, live
        self._offset: float | None = None
        self._arrival = 0.0

    def restart(self) -> None:
        """The source's times restart with the next frame."""
        self._offset = None

    def stamp(self, time: float | None, arrival: float) -> float:
        """Timestamp of the next frame, seconds.

        Args:
            time: of the source, seconds; None where it gives none.
            arrival: seconds of ``time.monotonic``.
        """
        if self.last is None:
            self._offset = None if time is None else 0.0
            stamp = time or 0.0
        else:
            passed = max(0.0, arrival - self._arrival) if self._live else self._frame
            stamp = self._next(self.last, time, passed)
        self.last, self._arrival = stamp, arrival
        return stamp

    def _next(self, last: float, time: float | None, passed: float) -> float:
        if time is None:
            self._offset = None
            return last + passed
        if self._offset is not None:
            stamp = time + self._offset
            ahead = stamp - last
            if -self._frame <= ahead < 0:
                return last
            if ahead >= 0 and (not self._live or abs(ahead - passed) < TOLERANCE):
                return stamp
        self._offset = last + passed - time
        return last + passed
