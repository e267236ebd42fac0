"""Several streams in one step: each has a place in a batch, with a frame and a state of its own.

A batch runs when every stream that has a place has begun its step, or when the first of them has
waited long enough; the places of the others are then computed on old frames and their states kept
as they were.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError
from streamseg.runtime.backends.arrays import DeviceFrame
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.backends.interface import Array, Executable, Lane, StepPlan, plan_step
from streamseg.runtime.bundle.manifest import Manifest

WAIT_MS = 10.0

P = ParamSpec("P")
R = TypeVar("R")


class BatchLane(Protocol):
    """What a batch needs of the lane that runs it; parts are places in the batch."""

    depth: int
    frames: npt.NDArray[np.uint8]

    def start(self, plan: StepPlan) -> None:
        """See ``Lane.start``; takes ``frames`` ``[N, H, W, 3]``."""

    def finish(self) -> None:
        """See ``Lane.finish``."""

    def read_batch(self) -> dict[str, Array]:
        """Labels and logits of every stream of the last step finished, valid until the next."""

    def read_part(self, state: str, buffer: int, part: int) -> Array:
        """A copy of one stream's block of a state buffer."""

    def write_part(self, state: str, buffer: int, part: int, content: Array) -> None:
        """Overwrite one stream's block of a state buffer."""

    def clear_part(self, buffer: int, part: int) -> None:
        """Zero one stream's block of every state."""

    def keep_part(self, source: int, target: int, part: int) -> None:
        """Copy one stream's block of every state from a buffer to another."""

    def finite_part(self, buffer: int, part: int) -> bool:
        """Whether one stream's state holds no NaN and no infinity."""

    def close(self) -> None:
        """See ``Lane.close``."""


def of_one_stream(manifest: Manifest) -> Manifest:
    """What each stream of a batch sees: its own frame and state."""
    count = manifest.frame.batch
    table = tuple(
        replace(spec, shape=(spec.shape[0] // count, *spec.shape[1:])) for spec in manifest.state
    )
    return replace(manifest, frame=replace(manifest.frame, batch=1), state=table)


class BatchedExecutable(Executable):
    """Lanes of single streams over an executable whose steps serve several.

    Args:
        inner: runs the graph of the batch.
        manifest: of the batch.
        wait_ms: milliseconds that a batch waits for further streams.
    """

    def __init__(self, inner: Executable, manifest: Manifest, wait_ms: float | None = None) -> None:
        self.inner, self.batch_manifest = inner, manifest
        self.manifest = of_one_stream(manifest)
        self.wait = (WAIT_MS if wait_ms is None else wait_ms) / 1e3
        self.lock = threading.Condition(threading.RLock())
        count = manifest.frame.batch
        self._batches = [StreamBatch(self)]
        self.depth = self._batches[0].depth
        self.parallel = self.depth * count
        self.description = f"{inner.description}, {count} streams a step"

    def new_lane(self) -> PlaceLane:
        """A stream; it takes a place in a batch with its first step or state."""
        return PlaceLane(self)

    def new_place(self, lane: PlaceLane) -> tuple[StreamBatch, int]:
        """A free place, in a further batch where all are full."""
        for batch in self._batches:
            if None in batch.places:
                return batch, batch.take(lane)
        self._batches.append(StreamBatch(self))
        return self._batches[-1], self._batches[-1].take(lane)

    def close(self) -> None:
        """Release the batches and what runs them."""
        with self.lock:
            for batch in self._batches:
                batch.close()
            self._batches = []
            self.inner.close()


class StreamBatch:
    """Streams that step together; called with the executable's lock.

    Attributes:
        places: the stream at each place, or ``None``.
        waiting: place -> stream, of the batch that has not begun.
    """

    def __init__(self, executable: BatchedExecutable) -> None:
        self._manifest, self._wait = executable.batch_manifest, executable.wait
        self._lane: BatchLane = executable.inner.new_lane()  # type: ignore[assignment]
        self._changed = executable.lock
        self.places: list[PlaceLane | None] = [None] * self._manifest.frame.batch
        self.waiting: dict[int, PlaceLane] = {}
        self._waits_since = 0.0
        self._steps = 0
        self._under_way: deque[list[PlaceLane]] = deque()
        self._kept: list[int] = []

    @property
    def depth(self) -> int:
        """Steps that may be under way at once."""
        return self._lane.depth

    @property
    def patience(self) -> float:
        """Seconds that the waiting streams may still wait for others."""
        return max(0.0, self._waits_since + self._wait - time.monotonic())

    def take(self, lane: PlaceLane) -> int:
        """Give a stream the first free place, with empty state."""
        place = self.places.index(None)
        self.places[place] = lane
        self.clear(place)
        return place

    def leave(self, place: int) -> None:
        """Free a place; a step of it that has not begun is dropped."""
        self.waiting.pop(place, None)
        self.places[place] = None
        self._run_if_complete()

    def begin(self, place: int, lane: PlaceLane) -> None:
        """Add a stream's frame; the last one begins the step."""
        while len(self._under_way) >= self._lane.depth:
            self.finish_oldest()
        np.copyto(self._lane.frames[place], lane.frame)
        if not self.waiting:
            self._waits_since = time.monotonic()
        self.waiting[place] = lane
        self._run_if_complete()

    def _run_if_complete(self) -> None:
        if self.waiting and len(self.waiting) == sum(lane is not None for lane in self.places):
            self.run()

    def run(self) -> None:
        """Begin the step of the streams that wait."""
        self._keep_absent()
        self._lane.start(plan_step(self._manifest, self._steps))
        self._steps += 1
        self._kept = [
            place
            for place, lane in enumerate(self.places)
            if lane is not None and place not in self.waiting
        ]
        self._under_way.append(list(self.waiting.values()))
        self.waiting = {}
        self._changed.notify_all()

    def _keep_absent(self) -> None:
        """Bring the states of streams that were absent from the last step past it."""
        kept, self._kept = self._kept, []
        for place in kept:
            if self.places[place] is not None:
                self._lane.keep_part((self._steps - 1) % 2, self._steps % 2, place)

    def wait_for_others(self, place: int) -> None:
        """Begin the step that a stream waits in, after the others' frames or the limit."""
        while place in self.waiting and self.patience > 0:
            self._changed.wait(self.patience)
        if place in self.waiting:
            self.run()

    def finish_oldest(self) -> None:
        """Wait for the oldest step, and hand its results, or its error, to its streams."""
        lanes = self._under_way.popleft()
        try:
            self._lane.finish()
            found = self._lane.read_batch()
        except BackendError as error:
            for lane in lanes:
                lane.results.append(error)
            return
        self._keep_absent()
        for lane in lanes:
            lane.results.append({name: part[lane.place].copy() for name, part in found.items()})

    def settle(self, place: int) -> int:
        """Begin a stream's step, if it waits; the buffer that its state is in."""
        if place in self.waiting:
            self.run()
        self._keep_absent()
        return self._steps % 2

    def clear(self, place: int) -> None:
        """Zero a stream's state, after the steps begun so far."""
        self._lane.clear_part(self.settle(place), place)

    def read(self, state: str, place: int) -> Array:
        """A copy of a stream's state, after the steps begun so far."""
        return self._lane.read_part(state, self.settle(place), place)

    def write(self, state: str, place: int, content: Array) -> None:
        """Overwrite a stream's state, after the steps begun so far."""
        self._lane.write_part(state, self.settle(place), place, content)

    def is_finite(self, place: int) -> bool:
        """Whether a stream's state holds no NaN and no infinity."""
        return self._lane.finite_part(self.settle(place), place)

    def close(self) -> None:
        """Release the lane that runs the steps."""
        self._lane.close()


def _locked(
    method: Callable[Concatenate[PlaceLane, P], R],
) -> Callable[Concatenate[PlaceLane, P], R]:
    """Streams of one batch may be stepped in several threads."""

    def call(self: PlaceLane, /, *arguments: P.args, **named: P.kwargs) -> R:
        with self.executable.lock:
            return method(self, *arguments, **named)

    call.__doc__ = method.__doc__
    return call


class PlaceLane(Lane):
    """One stream's place in a batch; its buffers of state are the batch's, whatever their number.

    Attributes:
        results: of steps that have run and were not asked for: outputs by name, or the error.
    """

    stream = 0

    def __init__(self, executable: BatchedExecutable) -> None:
        self.executable = executable
        frame = executable.manifest.frame
        self.frame = np.zeros(frame.shape[1:], np.uint8)
        self.labels = np.zeros(frame.shape[1:3], np.uint8)
        self.results: deque[dict[str, Array] | BackendError] = deque()
        self._batch: StreamBatch | None = None
        self._place = -1
        self._under_way = 0
        self._shown: dict[str, Array] = {}
        self._closed = False

    @property
    def place(self) -> int:
        """Its number in the batch."""
        return self._place

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Steps that may be under way at once: no further one while one waits for others."""
        with self.executable.lock:
            return self._under_way if self._waits else self.executable.depth

    @property
    def patience(self) -> float:
        """Seconds for which a step that has not begun waits for other streams."""
        with self.executable.lock:
            return self._batch.patience if self._batch is not None and self._waits else 0.0

    @property
    def _waits(self) -> bool:
        return self._batch is not None and self._place in self._batch.waiting

    def _joined(self) -> StreamBatch:
        """The batch, in which it takes a place now if it has none."""
        if self._closed:
            raise BackendError("the stream is closed")
        if self._batch is None:
            self._batch, self._place = self.executable.new_place(self)
        return self._batch

    @_locked
    def start(self, plan: StepPlan) -> None:  # noqa: ARG002  (the batch has a clock of its own)
        """Add ``frame`` to the batch."""
        if self._under_way == self.depth:
            raise BackendError(f"{self.depth} steps are under way; finish one first")
        self._joined().begin(self._place, self)
        self._under_way += 1

    @_locked
    def finish(self) -> None:
        """Wait for the oldest step under way, after the frames of others or the limit."""
        if not self._under_way or self._batch is None:
            raise BackendError("no step is under way")
        self._under_way -= 1
        if not self.results:
            self._batch.wait_for_others(self._place)
        while not self.results:
            self._batch.finish_oldest()
        found = self.results.popleft()
        if isinstance(found, BackendError):
            raise BackendError(str(found)) from found
        self._shown = found
        self.labels = found["labels"]  # type: ignore[assignment]

    def read_logits(self) -> npt.NDArray[np.float32] | None:
        """Of the last step finished."""
        logits: Any = self._shown.get("logits")
        return logits  # type: ignore[no-any-return]

    def run_device(self, plan: StepPlan, frame: DeviceFrame) -> DeviceArray:  # noqa: ARG002
        """Refuse: the frames of a batch lie side by side."""
        raise BackendError(
            "a bundle for several streams takes no frames from device memory; export it without "
            "--batch"
        )

    @_locked
    def read(self, state: str, buffer: int) -> Array:  # noqa: ARG002
        """A copy of the state."""
        if self._batch is None:
            spec = self.executable.manifest.state_named(state)
            return np.zeros(spec.shape, spec.dtype)
        return self._batch.read(state, self._place)

    @_locked
    def write(self, state: str, buffer: int, content: Array) -> None:  # noqa: ARG002
        """Overwrite the state."""
        self._joined().write(state, self._place, content)

    @_locked
    def finite(self, buffers: Sequence[tuple[str, int]]) -> bool:  # noqa: ARG002
        """Whether the state holds no NaN and no infinity."""
        return self._batch is None or self._batch.is_finite(self._place)

    @_locked
    def clear(self) -> None:
        """Zero the state; those of other streams stay."""
        if self._batch is not None:
            self._batch.clear(self._place)

    @_locked
    def close(self) -> None:
        """Leave the batch; closing twice is fine."""
        if self._batch is not None and not self._closed:
            self._batch.leave(self._place)
        self._closed = True
