"""A session: one stream's frames in order, and the policy that decides when state is forgotten."""

from __future__ import annotations

import logging
import os
import queue
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

from streamseg.counting import count_of
from streamseg.errors import StreamsegError
from streamseg.runtime.session.adaptation import Adapter, carry_on
from streamseg.runtime.session.cuts import CutDetector
from streamseg.runtime.session.events import Event, EventHandler, EventKind, ResetCause
from streamseg.runtime.session.policy import GapDetector, StatePolicy
from streamseg.runtime.session.snapshots import (
    Position,
    SessionSnapshot,
    read_snapshot,
    write_snapshot,
)
from streamseg.runtime.sources import Frame
from streamseg.runtime.step_result import StepResult
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.frame_check import check_frame
from streamseg.runtime.video.resize import Image

logger = logging.getLogger(__name__)

RunJob = Callable[[Callable[[], None]], None]
"""Calls what it is given, now or in another thread, in order."""


def run_now(job: Callable[[], None]) -> None:
    """Call a job at once."""
    job()


class Session:
    """Steps a stream and keeps its state honest: every decision is an event with its reason.

    ``process``, ``serve``, ``snapshot`` and ``restore`` belong to one thread at a time, as the
    stream does. The ``request_`` methods may be called from any thread; what they request is done
    before the next frame, or by ``serve``, which a loop calls while no frame comes.

    Args:
        stream: stepped by this session only; not closed by it.
        policy: what resets the state.
        name: of the stream in events, without passwords.
        on_event: called for every event, in the session's thread or where files are written;
            without it events are logged.
        snapshot: file for snapshots that name no other, rewritten each time.
        snapshot_every: frames between two snapshots to that file; ``None`` makes none unasked.
        run_job: runs the writing of snapshot files. At once by default; a loop that has a thread
            for outputs lets that do it.

    Attributes:
        frames: processed so far.
        carried: frames of these that got the labels of the one before.
        resets: how often the state was forgotten, by cause.
        resumed: position of the snapshot file that it resumed from; None for a fresh start.
        unsaved: why the session's own file does not hold its last snapshot; None where it does.
    """

    def __init__(
        self,
        stream: Stream,
        policy: StatePolicy | None = None,
        *,
        name: str = "",
        on_event: EventHandler | None = None,
        snapshot: str | os.PathLike[str] | None = None,
        snapshot_every: int | None = None,
        run_job: RunJob = run_now,
    ) -> None:
        if snapshot_every is not None and (snapshot is None or snapshot_every < 1):
            raise StreamsegError(
                f"snapshots every {snapshot_every} frames of {snapshot}: expected a file, and 1 or "
                "more frames"
            )
        self.stream = stream
        self.policy = policy or StatePolicy()
        self.name = name
        self.frames = self.carried = 0
        self.resets: Counter[ResetCause] = Counter()
        self.resumed: Position | None = None
        self.unsaved: StreamsegError | None = None
        self._run_job = run_job
        self._on_event = on_event
        self._snapshot, self._snapshot_every = snapshot, snapshot_every
        self._saved = 0
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._last: Position | None = None
        self._gaps = GapDetector(self.policy.gap_reset, self.policy.gap_ratio)
        asked, given = self.policy.scene_cut, stream.manifest.policy.scene_cut
        self._cuts = CutDetector(given if asked is None else asked)
        self._adapter = Adapter(self.policy.adaptation, stream.manifest)
        self._order: deque[Image | None] = deque()  # of the frames begun: those without a step
        self._result: StepResult | None = None
        self._unsure = ""

    @property
    def patience(self) -> float:
        """Seconds for which the oldest step begun waits for frames of other streams."""
        return self.stream.patience

    def prepare(self, frame: Frame) -> Frame:
        """Bring a frame to the model's size ahead of ``begin``; for the thread that reads.

        Frames that the snapshot covers are left as they are, and all where labels may be carried
        on: some are never segmented.

        Raises:
            FrameMismatch: the frame has another shape or dtype than a picture.
        """
        covered = self.resumed is not None and frame.index <= self.resumed.index
        if covered or self.policy.adaptation.carry_below is not None:
            return frame
        return replace(frame, fitted=self.stream.fit_ahead(frame.image))

    def process(self, frame: Frame) -> StepResult:
        """Do what was requested, apply the policy, then step. Valid until the next call.

        Raises:
            FrameMismatch, StateMismatch, BackendError: as ``Stream.step``.
        """
        self.serve()
        self.begin(frame)
        return self.finish()

    def begin(self, frame: Frame) -> None:
        """Apply the policy and begin the step of the next frame; see ``Stream.begin``."""
        check_frame(frame.image)
        decision = self._judge(frame)
        if decision is not None:
            self._adapter.forget()
            if self.stream.remembers and self.stream.steps > 0:
                self._reset(*decision, frame.index, frame.timestamp)
        before = self._adapter.carried
        choice = self._adapter.choose(frame.image)
        if choice.reason and not choice.carried:
            self._emit("key", choice.reason, frame.index, frame.timestamp)
        if before and not choice.carried:
            self._tell_carried(before, frame.index, frame.timestamp)
        if choice.carried:
            self.carried += 1
        else:
            self.stream.begin(frame.image, graph=choice.graph, fitted=frame.fitted)
        self._order.append(frame.image if choice.carried else None)
        self._last = Position(frame.index, frame.timestamp, frame.size)
        self.frames += 1

    def finish(self) -> StepResult:
        """The result of the oldest step begun; see ``Stream.finish``.

        A frame whose labels are carried on gets a copy of the result before.
        """
        frame = self._order.popleft() if self._order else None
        if frame is not None:
            assert self._result is not None
            self._result = carry_on(self.stream, self._result, frame)
            return self._result
        self._result = self.stream.finish()
        self._unsure = self._adapter.is_unsure(self._result, self.stream.steps)
        return self._result

    def _tell_carried(self, count: int, index: int, timestamp: float) -> None:
        frames = f"{count} frame" + "s" * (count > 1)
        reason = f"{frames} got the labels of the frame before: little had changed"
        self._emit("carried", reason, index, timestamp)

    def _judge(self, frame: Frame) -> tuple[ResetCause, str] | None:
        """Why the state must not meet this frame; None where it may."""
        last, watched = self._last, self.stream.remembers
        cut = watched and self._cuts.is_cut(frame.image)
        if last is None:
            return None
        interval = frame.timestamp - last.timestamp
        silence = interval if frame.silence is None else frame.silence
        gap = self._gaps.is_gap(silence)
        if frame.size != last.size:
            (height, width), (old_height, old_width) = frame.size, last.size
            reason = f"frames are {height}x{width} from here on, {old_height}x{old_width} before"
            self._emit("geometry", reason, frame.index, frame.timestamp)
            return "geometry", reason
        if gap:
            return "gap", f"{silence:.3g} s without a frame, more than {self.policy.gap_reset:g} s"
        if cut:
            return "cut", f"scene cut: score {self._cuts.score:.1f} of {self._cuts.threshold:.1f}"
        if watched and self._unsure:
            return "unsure", self._unsure
        every = self.policy.check_every
        if watched and every and self.frames % every == 0 and not self.stream.is_finite():
            return (
                "nonfinite",
                f"the state held NaN or infinity after {count_of(self.stream.steps, 'frame')}",
            )
        return None

    @property
    def depth(self) -> int:
        """Steps that may be under way at once."""
        return self.stream.depth

    @property
    def due(self) -> bool:
        """Whether ``serve`` has something to do."""
        return self._snapshot_is_due or not self._requests.empty()

    @property
    def _snapshot_is_due(self) -> bool:
        every = self._snapshot_every
        return every is not None and self.frames - self._saved >= every

    def serve(self) -> None:
        """Do what was requested since the last call, and write the snapshot that is due.

        Not to be called while a step is under way: its result would come after the snapshot.
        """
        if self._snapshot_is_due:
            self._save_unasked()
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return
            request()

    def end(self) -> None:
        """Do what is left to do: requests, and the snapshot of the last frame if any are made.

        Not to be called after a step that failed: the state is then undefined.
        """
        self.serve()
        if self._adapter.carried:
            self._tell_carried(self._adapter.carried, *self._next())
        if self._snapshot is not None and self.frames > self._saved:
            self._save_unasked()

    def _save_unasked(self) -> None:
        assert self._snapshot is not None
        self._saved = self.frames
        self._write(self._snapshot, Future(), self._run_job)

    def request_reset(self, reason: str = "requested") -> Future[Event]:
        """Forget the state before the next frame; the future gives the event."""
        future: Future[Event] = Future()

        def act() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(self._reset("request", reason, *self._next()))

        self._requests.put(act)
        return future

    def request_snapshot(self, path: str | os.PathLike[str] | None = None) -> Future[Event]:
        """Write the state as it is before the next frame, to ``path`` or the session's own file.

        The future gives the event, or the StreamsegError where the file could not be written;
        the stream continues in both cases.
        """
        future: Future[Event] = Future()

        def act() -> None:
            if future.set_running_or_notify_cancel():
                self._write(self._snapshot if path is None else path, future, self._run_job)

        self._requests.put(act)
        return future

    def _write(
        self, path: str | os.PathLike[str] | None, future: Future[Event], run_job: RunJob
    ) -> None:
        """Copy the state now, let it be written by ``run_job``, report the outcome to both."""
        index, timestamp = self._next()
        own = path is not None and path == self._snapshot

        def fail(error: StreamsegError) -> None:
            self.unsaved = error if own else self.unsaved
            self._emit("failed", str(error), index, timestamp)
            future.set_exception(error)

        def write(file: str | os.PathLike[str], snapshot: SessionSnapshot) -> None:
            try:
                write_snapshot(file, snapshot)
            except StreamsegError as error:
                fail(error)
                return
            self.unsaved = None if own else self.unsaved
            reason = f"state after {count_of(snapshot.state.step, 'frame')} written to {Path(file)}"
            future.set_result(self._emit("snapshot", reason, index, timestamp))

        try:
            if path is None:
                raise StreamsegError("no file for snapshots was named; give --snapshot FILE")
            snapshot = self.snapshot()
        except StreamsegError as error:
            fail(error)
            return
        run_job(partial(write, path, snapshot))

    def snapshot(self) -> SessionSnapshot:
        """Copy what the next result depends on: state, step counter, and the last frame's traces.

        Raises:
            StreamsegError: no frame was processed yet.
        """
        if self._last is None:
            raise StreamsegError(f"{self.name or 'the stream'} has no state yet: no frame came")
        return SessionSnapshot(
            self.stream.snapshot(),
            self._last,
            self._cuts.thumbnail,
            tuple(self._cuts.scores),
            tuple(self._gaps.intervals),
        )

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Resume from a snapshot of this bundle; two sessions may resume from the same one.

        Raises:
            StateMismatch: it is of another bundle, or does not fit the state table.
        """
        self.stream.restore(snapshot.state)
        self._last = snapshot.position
        self._cuts.restore(snapshot.thumbnail, snapshot.scores)
        self._gaps.restore(snapshot.intervals)
        self._adapter.forget()
        self._unsure = ""

    def save(self, path: str | os.PathLike[str]) -> Event:
        """Write a snapshot file now, completely or not at all.

        Raises:
            StreamsegError: no frame was processed yet, or the file cannot be written.
        """
        future: Future[Event] = Future()
        self._write(path, future, run_now)
        return future.result()

    def load(self, path: str | os.PathLike[str]) -> SessionSnapshot:
        """Resume from a snapshot file.

        Raises:
            StateMismatch: no such file, damaged, or of another bundle.
        """
        snapshot = read_snapshot(path, self.stream.manifest.state, self.stream.identity)
        self.restore(snapshot)
        self.resumed = snapshot.position
        reason = f"state after {count_of(snapshot.state.step, 'frame')} read from {Path(path)}"
        self._emit("restore", reason, *self._next())
        return snapshot

    def note(self, kind: EventKind, reason: str) -> Event:
        """Report something else that concerns the stream, before its next frame."""
        return self._emit(kind, reason, *self._next())

    def confidence(self) -> Image:
        """Of the last result; see ``Stream.confidence``."""
        return self.stream.confidence()

    def _next(self) -> tuple[int, float]:
        """Index of the next frame, time of the last."""
        if self._last is None:
            return 0, 0.0
        return self._last.index + 1, self._last.timestamp

    def _reset(self, cause: ResetCause, reason: str, index: int, timestamp: float) -> Event:
        self.stream.reset()
        self._adapter.forget()
        self._unsure = ""
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
        else:
            logger.info("%s", event)
        return event
