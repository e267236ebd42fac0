"""Steps on a CUDA device: uploads, steps and downloads of neighbouring frames overlap."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError, FrameMismatch, PluginNotFound
from streamseg.plugins.device import load_cuda
from streamseg.runtime.backends.arrays import DeviceFrame
from streamseg.runtime.backends.cuda import DEVICE, LEGACY_STREAM, DeviceArray
from streamseg.runtime.backends.device_buffers import SLOTS, DeviceBuffers, StepSlot
from streamseg.runtime.backends.interface import Array, Lane, StepPlan, is_finite
from streamseg.runtime.bundle.manifest import Manifest


@dataclass(frozen=True)
class _Begun:
    slot: StepSlot
    job: Future[None] | None  # puts the step on its stream, in another thread


class DeviceLane(Lane):
    """Two slots, so that upload, step and download of neighbouring frames overlap.

    Three CUDA streams, ordered by events: uploads, steps, downloads. The state is touched by the
    stream of steps only. Subclasses put a graph's step on that stream (``_launch``).
    """

    depth = SLOTS

    def __init__(self, buffers: DeviceBuffers, manifest: Manifest) -> None:
        self._cuda, self._buffers, self._manifest = buffers.cuda, buffers, manifest
        self.stream = int(buffers.steps)
        self._under_way: deque[_Begun] = deque()
        self._next, self._closed = 0, False
        self._shown: tuple[StepSlot, int] | None = None
        self.frames = buffers.slots[0].frame
        self.frame = self.frames[0]
        self.labels = buffers.slots[0].outputs["labels"][0]

    @abstractmethod
    def _launch(self, plan: StepPlan, slot: StepSlot, frame: DeviceArray) -> None:
        """Put one step on the stream of steps; its frame is in ``frame`` when it runs."""

    def _submit(self, job: Callable[[], None]) -> Future[None] | None:
        """Run a job that calls ``_launch``, here or in another thread."""
        job()
        return None

    def start(self, plan: StepPlan) -> None:
        """Upload ``frame`` and begin its step; ``frame`` then is the other slot's buffer."""
        with self._cuda.device():
            slot = self._claim()
            if not self._buffers.in_place:
                self._cuda.upload(slot.device_frame, slot.frame, self._buffers.uploads)
                self._cuda.call("cudaEventRecord", slot.uploaded, self._buffers.uploads)
            job = self._submit(functools.partial(self._step, plan, slot))
        self._under_way.append(_Begun(slot, job))
        self._advance()

    def _step(self, plan: StepPlan, slot: StepSlot) -> None:
        cuda, buffers = self._cuda, self._buffers
        if not buffers.in_place:
            cuda.wait_event(buffers.steps, slot.uploaded)
        self._launch(plan, slot, slot.device_frame)
        cuda.order(buffers.steps, buffers.downloads, slot.computed)
        cuda.download(slot.outputs["labels"], slot.device_outputs["labels"], buffers.downloads)
        cuda.call("cudaEventRecord", slot.ready, buffers.downloads)

    def finish(self) -> None:
        """Wait for the oldest step under way."""
        if not self._under_way:
            raise BackendError("no step is under way")
        begun = self._under_way.popleft()
        if begun.job is not None:
            begun.job.result()
        with self._cuda.device():
            self._cuda.call("cudaEventSynchronize", begun.slot.ready)
        self._shown = begun.slot, begun.slot.uses
        self.labels = begun.slot.outputs["labels"][0]

    def read_logits(self) -> npt.NDArray[np.float32] | None:
        """Download the logits of the last step finished, once."""
        logits = self._download_logits()
        return None if logits is None else logits[0]

    def read_batch(self) -> dict[str, Array]:
        """Labels and logits of every stream of the last step finished, valid until the next."""
        if self._shown is None:
            raise BackendError("no step has finished yet")
        found: dict[str, Array] = {"labels": self._shown[0].outputs["labels"]}
        logits = self._download_logits()
        return found if logits is None else {**found, "logits": logits}

    def _download_logits(self) -> npt.NDArray[np.float32] | None:
        if self._shown is None or "logits" not in self._shown[0].outputs:
            return None
        slot, use = self._shown
        if slot.uses != use:
            raise BackendError("a later step has overwritten these logits; read them before it")
        if not slot.fetched:
            # The stream of downloads waits for steps that are under way, this one for none.
            stream = self._buffers.uploads
            with self._cuda.device():
                self._cuda.download(slot.outputs["logits"], slot.device_outputs["logits"], stream)
                self._cuda.synchronize(stream)
            slot.fetched = True
        logits: npt.NDArray[np.float32] = slot.outputs["logits"]
        return logits

    def run_device(self, plan: StepPlan, frame: DeviceFrame) -> DeviceArray:
        """Begin a step on a frame in device memory; at most ``depth`` of them run ahead."""
        if self._under_way:
            raise BackendError("a step is under way; finish it before one on the device")
        with self._cuda.device():
            self._require_usable(frame.array)
            slot = self._claim()
            self._begin_device(plan, slot, frame)
        self._advance()
        labels = slot.device_outputs["labels"]
        admit = functools.partial(self._admit, slot, slot.uses)
        return DeviceArray(labels.pointer, labels.shape[1:], labels.dtype, self.stream, admit)

    def _begin_device(self, plan: StepPlan, slot: StepSlot, frame: DeviceFrame) -> None:
        cuda, steps = self._cuda, self._buffers.steps
        slot.owner, slot.unwatched = frame.owner, True
        slot.stream, slot.stream_owner = frame.before, frame.stream_owner
        if frame.after:
            cuda.order(cuda.handle(frame.after), steps, slot.uploaded)
        if not frame.known:
            cuda.call("cudaDeviceSynchronize")

        def step() -> None:
            self._launch(plan, slot, frame.array)
            cuda.call("cudaEventRecord", slot.computed, steps)

        job = self._submit(step)
        if job is not None:
            job.result()
        # Its owner may overwrite the frame next, on that stream.
        cuda.wait_event(cuda.handle(frame.before), slot.computed)
        if not frame.known:
            self._watch(slot)

    def _require_usable(self, frame: DeviceArray) -> None:
        place = self._cuda.device_of(frame.pointer)
        if place == DEVICE:
            return
        where = "in host memory" if place is None else f"on CUDA device {place}"
        raise FrameMismatch(f"the frame is {where}, expected CUDA device {DEVICE}; copy it there")

    def _admit(self, slot: StepSlot, use: int, consumer: int) -> None:
        """Have a consumer's stream wait for the labels, and the next step here for the consumer.

        ``consumer`` 0 is a stream that is not known and waits by itself.
        """
        if self._closed or slot.uses != use:
            raise BackendError("these labels are overwritten; take them before the step after next")
        if consumer:
            with self._cuda.device():
                self._cuda.wait_event(self._cuda.handle(consumer), slot.computed)
        # The handle of a stream that its owner destroys must not be used again.
        kept = slot.stream_owner is not None and consumer == slot.stream
        if kept or consumer == LEGACY_STREAM:
            slot.consumers.add(consumer)
        else:
            slot.read_elsewhere = True

    def _claim(self) -> StepSlot:
        """The next slot, once the device has finished with it."""
        if self._closed:
            raise BackendError("the stream is closed")
        if len(self._under_way) == self.depth:
            raise BackendError(f"{self.depth} steps are under way; finish one first")
        slot = self._buffers.slots[self._next]
        if slot.unwatched:
            self._watch(slot)
        self._wait_for_consumers(slot)
        slot.uses += 1
        slot.fetched = False
        return slot

    def _wait_for_consumers(self, slot: StepSlot) -> None:
        """Have the next step wait for those who read the slot's outputs."""
        if slot.read_elsewhere:
            self._cuda.call("cudaDeviceSynchronize")
            slot.consumers.clear()
            slot.read_elsewhere = False
        while slot.consumers:
            consumer = self._cuda.handle(slot.consumers.pop())
            self._cuda.order(consumer, self._buffers.steps, slot.consumed)
        slot.stream_owner = None

    def _watch(self, slot: StepSlot) -> None:
        """Wait for a step on a device frame; its owner is then released."""
        self._cuda.call("cudaEventSynchronize", slot.computed)
        slot.owner, slot.unwatched = None, False

    def _advance(self) -> None:
        self._next = (self._next + 1) % self.depth
        self.frames = self._buffers.slots[self._next].frame
        self.frame = self.frames[0]

    def _settle(self) -> None:
        """Wait until every step begun is on its stream; ``finish`` still reports how it went."""
        wait([begun.job for begun in self._under_way if begun.job is not None])

    def read(self, state: str, buffer: int) -> Array:
        """A copy of one state buffer, after the steps begun so far."""
        self._settle()
        return self._download(self._buffers.state[state][buffer])

    def _download(self, array: DeviceArray) -> Array:
        content: Array = np.empty(array.shape, array.dtype)
        with self._cuda.device():
            self._cuda.download(content, array, self._buffers.steps)
            self._cuda.synchronize(self._buffers.steps)
        return content

    def write(self, state: str, buffer: int, content: Array) -> None:
        """Overwrite one state buffer, after the steps begun so far."""
        self._settle()
        self._upload(self._buffers.state[state][buffer], content)

    def _upload(self, array: DeviceArray, content: Array) -> None:
        with self._cuda.device():
            self._cuda.upload(array, np.ascontiguousarray(content), self._buffers.steps)
            self._cuda.synchronize(self._buffers.steps)

    def read_part(self, state: str, buffer: int, part: int) -> Array:
        """A copy of one stream's block of a state buffer."""
        return self._download(self._block(state, buffer, part))

    def write_part(self, state: str, buffer: int, part: int, content: Array) -> None:
        """Overwrite one stream's block of a state buffer."""
        self._upload(self._block(state, buffer, part), content)

    def clear_part(self, buffer: int, part: int) -> None:
        """Zero one stream's block of every state, after the steps begun so far."""
        with self._cuda.device():
            for state in self._buffers.state:
                self._cuda.zero(self._block(state, buffer, part), self._buffers.steps)

    def keep_part(self, source: int, target: int, part: int) -> None:
        """Copy one stream's block of every state, after the steps begun so far."""
        with self._cuda.device():
            for state in self._buffers.state:
                old, new = (self._block(state, buffer, part) for buffer in (source, target))
                self._cuda.copy(new, old, self._buffers.steps)

    def finite_part(self, buffer: int, part: int) -> bool:
        """Whether one stream's state holds no NaN and no infinity, seen on the device."""
        return self._all_finite([self._block(name, buffer, part) for name in self._buffers.state])

    def _block(self, state: str, buffer: int, part: int) -> DeviceArray:
        """One stream's part of a state buffer."""
        self._settle()
        array, count = self._buffers.state[state][buffer], self._manifest.frame.batch
        shape = (array.shape[0] // count, *array.shape[1:])
        place = array.pointer + part * (array.nbytes // count)
        return DeviceArray(place, shape, array.dtype, array.stream)

    def finite(self, buffers: Sequence[tuple[str, int]]) -> bool:
        """Check on the device, one flag for all; copies to the host without our library."""
        self._settle()
        return self._all_finite([self._buffers.state[state][buffer] for state, buffer in buffers])

    def _all_finite(self, arrays: Sequence[DeviceArray]) -> bool:
        try:
            library = load_cuda()
        except PluginNotFound:
            return all(is_finite(self._download(array)) for array in arrays)
        cuda, steps = self._cuda, self._buffers.steps
        found = np.zeros(1, np.int32)
        with cuda.device():
            flag = cuda.allocate((1,), "int32")
            try:
                cuda.zero(flag, steps)
                for array in arrays:
                    if array.dtype in ("float32", "float16"):
                        library.find_nonfinite(
                            array.pointer,
                            flag.pointer,
                            count=math.prod(array.shape),
                            half=array.dtype == "float16",
                            stream=self.stream,
                        )
                cuda.download(found, flag, steps)
                cuda.synchronize(steps)
            finally:
                cuda.free(flag)
        return not found[0]

    def clear(self) -> None:
        """Zero every state buffer, after the steps begun so far."""
        self._settle()
        with self._cuda.device():
            self._buffers.clear()
