"""A session: one stream's frames in order, and the policy that decides when state is forgotten."""

from __future__ import annotations

import os
import queue
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from streamseg.errors import StreamsegError
from streamseg.runtime.events import Event, EventHandler, EventKind, ResetCause
from streamseg.runtime.policy import CutDetector, StatePolicy
from streamseg.runtime.snapshots import Position, SessionSnapshot, read_snapshot, write_snapshot
from streamseg.runtime.sources import Frame
from streamseg.runtime.stream import StepResult, Stream


class Session:
    """Steps a stream and keeps its state honest: every decision is an event with its reason.

    ``process``, ``serve``, ``snapshot`` and ``restore`` belong to one thread at a time, as the
    stream does. The ``request_`` methods may be called from any thread; what they ask for is done
    before the next frame, or by ``serve``, which a loop calls while no frame comes.

    Args:
        stream: stepped by this session only; not closed by it.
        policy: what resets the state.
        name: of the stream in events, without passwords.
        on_event: called in the session's thread for every event.

    Attributes:
        frames: processed so far.
        resets: how often the state was forgotten, by cause.
    """

    def __init__(
        self,
        stream: Stream,
        policy: StatePolicy | None = None,
        *,
        name: str = "",
        on_event: EventHandler | None = None,
    ) -> None:
        self.stream = stream
        self.policy = policy or StatePolicy()
        self.name = name
        self.frames = 0
        self.resets: Counter[ResetCause] = Counter()
        self._on_event = on_event
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._last: Position | None = None
        asked, given = self.policy.scene_cut, stream.manifest.policy.scene_cut
        self._cuts = CutDetector(given if asked is None else asked)

    def process(self, frame: Frame) -> StepResult:
        """Apply the policy, then step. The result is valid until the next call.

        Raises:
            FrameMismatch, StateMismatch, BackendError: as ``Stream.step``.
        """
        self.serve()
        decision = self._judge(frame)
        if decision is not None and self.stream.steps > 0:
            self._reset(*decision, frame.index, frame.timestamp)
        result = self.stream.step(frame.image)
        self._last = Position(frame.index, frame.timestamp, frame.size)
        self.frames += 1
        return result

    def _judge(self, frame: Frame) -> tuple[ResetCause, str] | None:
        """Why the state must not meet this frame; None where it may."""
        last = self._last
        if not self.stream.remembers:
            return None
        cut = self._cuts.is_cut(frame.image)
        if last is None:
            return None
        if frame.size != last.size:
            (height, width), (old_height, old_width) = frame.size, last.size
            reason = f"frames are {height}x{width} from here on, {old_height}x{old_width} before"
            self._emit("geometry", reason, frame.index, frame.timestamp)
            return "geometry", reason
        gap = frame.timestamp - last.timestamp
        if self.policy.gap_reset is not None and gap > self.policy.gap_reset:
            return "gap", f"{gap:.3g} s without a frame, more than {self.policy.gap_reset:.3g} s"
        if cut:
            return "cut", f"scene cut: score {self._cuts.score:.1f} of {self._cuts.threshold:.1f}"
        every = self.policy.check_every
        if every and self.frames % every == 0 and not self.stream.is_finite():
            return "nonfinite", f"the state held NaN or infinity after {self.stream.steps} frames"
        return None

    def serve(self) -> None:
        """Do what was asked for since the last call."""
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return
            request()

    def request_reset(self, reason: str = "asked for") -> Future[Event]:
        """Forget the state before the next frame; the future gives the event."""
        return self._request(lambda: self._reset("request", reason, *self._position()))

    def request_snapshot(self, path: str | os.PathLike[str]) -> Future[Event]:
        """Write the state to a file before the next frame.

        The future gives the event, or the StreamsegError where the file could not be written;
        the stream goes on in both cases.
        """
        return self._request(lambda: self.save(path))

    def _request(self, action: Callable[[], Event]) -> Future[Event]:
        future: Future[Event] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(action())
            except StreamsegError as error:
                self._emit("failed", str(error), *self._position())
                future.set_exception(error)

        self._requests.put(run)
        return future

    def snapshot(self) -> SessionSnapshot:
        """Copy what the next result depends on: state, step counter, and the last frame's traces.

        Raises:
            StreamsegError: no frame was processed yet.
        """
        if self._last is None:
            raise StreamsegError(f"{self.name or 'the stream'} has no state yet: no frame came")
        return SessionSnapshot(
            self.stream.snapshot(), self._last, self._cuts.thumbnail, tuple(self._cuts.scores)
        )

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Go on from a snapshot of this bundle; two sessions may go on from the same one.

        Raises:
            StateMismatch: it is of another bundle, or does not fit the state table.
        """
        self.stream.restore(snapshot.state)
        self._last = snapshot.position
        self._cuts.restore(snapshot.thumbnail, snapshot.scores)

    def save(self, path: str | os.PathLike[str]) -> Event:
        """Write a snapshot file, whole or not at all.

        Raises:
            StreamsegError: no frame was processed yet, or the file cannot be written.
        """
        snapshot = self.snapshot()
        write_snapshot(path, snapshot)
        reason = f"state after {snapshot.state.step} frames written to {Path(path)}"
        return self._emit("snapshot", reason, *self._position())

    def load(self, path: str | os.PathLike[str]) -> SessionSnapshot:
        """Go on from a snapshot file.

        Raises:
            StateMismatch: no such file, damaged, or of another bundle.
        """
        snapshot = read_snapshot(path, self.stream.manifest.state, self.stream.identity)
        self.restore(snapshot)
        reason = f"state after {snapshot.state.step} frames read from {Path(path)}"
        self._emit("restore", reason, *self._position())
        return snapshot

    def _position(self) -> tuple[int, float]:
        """Index of the next frame, time of the last."""
        if self._last is None:
            return 0, 0.0
        return self._last.index + 1, self._last.timestamp

    def _reset(self, cause: ResetCause, reason: str, index: int, timestamp: float) -> Event:
        self.stream.reset()
        self.resets[cause] += 1
        return self._emit("reset", reason, index, timestamp, cause)

    def _emit(
        self,
        kind: EventKind,
        reason: str,
        index: int,
        timestamp: float,
        cause: ResetCause | None = None,
    ) -> Event:
        event = Event(kind, self.name, index, timestamp, reason, cause or "")
        if self._on_event is not None:
            self._on_event(event)
        return event
