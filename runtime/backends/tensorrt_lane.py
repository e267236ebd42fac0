"""One stream's buffers on the GPU: state that stays there, and steps replayed from CUDA graphs."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError, FrameMismatch, PluginNotFound
from streamseg.plugins.device import load_cuda
from streamseg.runtime.backends.cuda import Cuda, DeviceArray
from streamseg.runtime.backends.interface import Array, Feed, Lane, StepPlan, is_finite
from streamseg.runtime.backends.tensors import output_tensors
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

# Frames of other libraries come at addresses that recur, or not; graphs are kept for so many.
MAX_GRAPHS = 64
# Of the addresses of inputs and outputs (NvInferRuntime.h, setTensorAddress).
ALIGNMENT = 256


class Engines(Protocol):
    """What a lane needs of its executable."""

    cuda: Cuda
    log: Any

    def new_context(self, graph: str) -> Any:
        """An execution context of a graph."""


@dataclass(frozen=True)
class StepSlot:
    """Buffers of one step under way: frame and outputs, on the device and page-locked.

    Events: the frame is uploaded, the outputs are computed, they are downloaded.
    """

    frame: npt.NDArray[np.uint8]
    device_frame: DeviceArray
    outputs: Mapping[str, npt.NDArray[Any]]
    device_outputs: Mapping[str, DeviceArray]
    uploaded: Any
    computed: Any
    ready: Any


# A plan on a slot's buffers and a frame's address: what a captured graph has baked in.
GraphKey = tuple[StepPlan, int, int]


class TensorRtLane(Lane):
    """Two slots, so that upload, step and download of neighbouring frames overlap.

    Three CUDA streams, ordered by events: uploads, steps, downloads. The state is touched by the
    stream of steps only.
    """

    depth = 2

    def __init__(
        self, engines: Engines, manifest: Manifest, *, on_close: Callable[[TensorRtLane], None]
    ) -> None:
        self._cuda, self._log, self._manifest = engines.cuda, engines.log, manifest
        self._stack = contextlib.ExitStack()
        self._stack.callback(on_close, self)
        self._graphs: dict[GraphKey, Any] = {}
        self._seen: set[GraphKey] = set()
        self._uncapturable: set[str] = set()
        self._under_way: deque[int] = deque()
        self._next = 0
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._allocate()
            self._contexts = {name: engines.new_context(name) for name in manifest.graphs}
            self._stack.callback(self._contexts.clear)
            self._warm_up()
            undo.pop_all()

    def _allocate(self) -> None:
        cuda, manifest = self._cuda, self._manifest
        self._uploads, self._steps, self._downloads = (self._new_stream() for _ in range(3))
        self.stream = int(self._steps)
        self._state = {
            spec.name: [self._new_array(spec.shape, spec.dtype) for _ in range(spec.buffers)]
            for spec in manifest.state
        }
        self._slots = [self._new_slot() for _ in range(self.depth)]
        self.clear()
        for slot in self._slots:
            cuda.zero(slot.device_frame, self._steps)
        cuda.synchronize(self._steps)
        self._show(0)

    def _new_slot(self) -> StepSlot:
        pinned, outputs = self._cuda.allocate_pinned, output_tensors(self._manifest)
        return StepSlot(
            pinned(self._manifest.frame.shape, "uint8"),
            self._new_array(self._manifest.frame.shape, "uint8"),
            {name: pinned(*kind) for name, kind in outputs.items()},
            {name: self._new_array(*kind) for name, kind in outputs.items()},
            *(self._new_event() for _ in range(3)),
        )

    def _new_stream(self) -> Any:
        stream = self._cuda.new_stream()
        self._later("cudaStreamDestroy", stream)
        return stream

    def _new_event(self) -> Any:
        event = self._cuda.new_event()
        self._later("cudaEventDestroy", event)
        return event

    def _new_array(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        array = self._cuda.allocate(shape, dtype)
        self._later("cudaFree", array.pointer)
        return array

    def _later(self, call: str, handle: Any) -> None:
        """Release at the end; a GPU whose context is lost refuses even that, and has no use."""

        def release() -> None:
            with contextlib.suppress(BackendError):
                self._cuda.call(call, handle)

        self._stack.callback(release)

    def _warm_up(self) -> None:
        """Run every graph once: TensorRT must before it is captured. Writes go to scratch."""
        slot = self._slots[0]
        for name, graph in self._manifest.graphs.items():
            specs = [self._manifest.state_named(state) for state in graph.writes]
            scratch = {spec.output: self._cuda.allocate(spec.shape, spec.dtype) for spec in specs}
            try:
                reads = tuple(
                    Feed(tensor, state, 0)
                    for state in graph.reads
                    for tensor in self._manifest.state_named(state).inputs(
                        graph.ring_reads.get(state, 1)
                    )
                )
                self._bind(StepPlan(name, reads, ()), slot, slot.device_frame.pointer)
                for tensor, array in scratch.items():
                    self._set(name, tensor, array.pointer)
                self._enqueue(name)
                self._cuda.synchronize(self._steps)
            finally:
                for array in scratch.values():
                    with contextlib.suppress(BackendError):
                        self._cuda.free(array)

    def start(self, plan: StepPlan) -> None:
        """Upload ``frame`` and begin its step; ``frame`` then is the other slot's buffer."""
        slot = self._claim()
        cuda = self._cuda
        cuda.upload(slot.device_frame, slot.frame, self._uploads)
        cuda.call("cudaEventRecord", slot.uploaded, self._uploads)
        cuda.wait_event(self._steps, slot.uploaded)
        self._launch(plan, slot.device_frame.pointer, own=True)
        cuda.call("cudaEventRecord", slot.computed, self._steps)
        cuda.wait_event(self._downloads, slot.computed)
        for tensor in self._manifest.graphs[plan.graph].outputs:
            cuda.download(slot.outputs[tensor], slot.device_outputs[tensor], self._downloads)
        cuda.call("cudaEventRecord", slot.ready, self._downloads)
        self._under_way.append(self._next)
        self._next = (self._next + 1) % self.depth
        self.frame = self._slots[self._next].frame[0]

    def finish(self) -> None:
        """Wait for the oldest step under way."""
        if not self._under_way:
            raise BackendError("no step is under way")
        index = self._under_way.popleft()
        self._cuda.call("cudaEventSynchronize", self._slots[index].ready)
        self._show(index)

    def run_device(self, plan: StepPlan, frame: DeviceArray) -> DeviceArray:
        """Begin a step on a frame in device memory; nobody waits for it on the host."""
        slot = self._claim()
        if self._under_way:
            raise BackendError("a step is under way; finish it before one on the device")
        if frame.pointer % ALIGNMENT:
            raise FrameMismatch(
                f"the frame lies at {frame.pointer:#x} in device memory, and TensorRT takes "
                f"multiples of {ALIGNMENT} bytes; copy it into an array of its own there"
            )
        producer = self._cuda.handle(frame.stream) if frame.stream else None
        if producer is not None:
            self._cuda.call("cudaEventRecord", slot.uploaded, producer)
            self._cuda.wait_event(self._steps, slot.uploaded)
        self._launch(plan, frame.pointer, own=False)
        self._cuda.call("cudaEventRecord", slot.computed, self._steps)
        if producer is not None:
            # Its owner may overwrite the frame next, on that stream.
            self._cuda.wait_event(producer, slot.computed)
        self._next = (self._next + 1) % self.depth
        self.frame = self._slots[self._next].frame[0]
        labels = slot.device_outputs["labels"]
        return DeviceArray(labels.pointer, labels.shape[1:], labels.dtype, int(self._steps))

    def _claim(self) -> StepSlot:
        if not self._contexts:
            raise BackendError("the stream is closed")
        if len(self._under_way) == self.depth:
            raise BackendError(f"{self.depth} steps are under way; finish one first")
        return self._slots[self._next]

    def _show(self, index: int) -> None:
        outputs = self._slots[index].outputs
        self.frame = self._slots[self._next].frame[0]
        self.labels = outputs["labels"][0]
        self.logits = outputs["logits"][0] if "logits" in outputs else None

    def _launch(self, plan: StepPlan, frame: int, *, own: bool) -> None:
        """Replay the plan's graph; a plan met for the first time is captured, then replayed.

        Frames of others are captured when their address comes back.
        """
        key = (plan, self._next, frame)
        graph = self._graphs.get(key)
        if graph is None:
            self._bind(plan, self._slots[self._next], frame)
            if own or key in self._seen:
                graph = self._capture(key)
            elif len(self._seen) < 16 * MAX_GRAPHS:
                self._seen.add(key)
        if graph is None:
            self._enqueue(plan.graph)
        else:
            self._cuda.call("cudaGraphLaunch", graph, self._steps)

    def _capture(self, key: GraphKey) -> Any:
        name = key[0].graph
        if name in self._uncapturable:
            return None
        asked = getattr(self._contexts[name], "is_stream_capturable", None)  # TensorRT-RTX only
        try:
            if asked is not None and not asked(int(self._steps)):
                raise BackendError("TensorRT-RTX has kernels of it to compile yet")
            graph = self._cuda.capture(self._steps, lambda: self._enqueue(name))
        except BackendError as error:
            self._uncapturable.add(name)
            logger.warning("graph '%s' runs without a CUDA graph: %s", name, error)
            return None
        if len(self._graphs) >= MAX_GRAPHS:
            self._cuda.synchronize(self._steps)
            self._cuda.call("cudaGraphExecDestroy", self._graphs.pop(next(iter(self._graphs))))
        self._graphs[key] = graph
        return graph

    def _bind(self, plan: StepPlan, slot: StepSlot, frame: int) -> None:
        self._set(plan.graph, "frame", frame)
        for feed in (*plan.reads, *plan.writes):
            self._set(plan.graph, feed.tensor, self._state[feed.state][feed.buffer].pointer)
        for tensor in self._manifest.graphs[plan.graph].outputs:
            self._set(plan.graph, tensor, slot.device_outputs[tensor].pointer)

    def _set(self, graph: str, tensor: str, pointer: int) -> None:
        if not self._contexts[graph].set_tensor_address(tensor, pointer):
            raise BackendError(
                f"TensorRT refuses the buffer of '{tensor}' in graph '{graph}': {self._log.reason}"
            )

    def _enqueue(self, graph: str) -> None:
        if not self._contexts[graph].execute_async_v3(int(self._steps)):
            raise BackendError(f"TensorRT does not run graph '{graph}': {self._log.reason}")

    def read(self, state: str, buffer: int) -> Array:
        """A copy of one state buffer, after the steps begun so far."""
        array = self._state[state][buffer]
        content: Array = np.empty(array.shape, array.dtype)
        self._cuda.download(content, array, self._steps)
        self._cuda.synchronize(self._steps)
        return content

    def write(self, state: str, buffer: int, content: Array) -> None:
        """Overwrite one state buffer, after the steps begun so far."""
        self._cuda.upload(self._state[state][buffer], np.ascontiguousarray(content), self._steps)
        self._cuda.synchronize(self._steps)

    def finite(self, buffers: Sequence[tuple[str, int]]) -> bool:
        """Look on the device, one flag for all; copies to the host where our library is missing."""
        try:
            library = load_cuda()
        except PluginNotFound:
            return all(is_finite(self.read(state, buffer)) for state, buffer in buffers)
        flag = self._cuda.allocate((1,), "int32")
        try:
            self._cuda.zero(flag, self._steps)
            self._cuda.synchronize(self._steps)
            for state, buffer in buffers:
                array = self._state[state][buffer]
                if array.dtype in ("float32", "float16"):
                    library.find_nonfinite(
                        array.pointer,
                        flag.pointer,
                        count=math.prod(array.shape),
                        half=array.dtype == "float16",
                        stream=self.stream,
                    )
            found = np.zeros(1, np.int32)
            self._cuda.download(found, flag, self._steps)
            self._cuda.synchronize(self._steps)
        finally:
            self._cuda.free(flag)
        return not found[0]

    def clear(self) -> None:
        """Zero every state buffer, after the steps begun so far."""
        for arrays in self._state.values():
            for array in arrays:
                self._cuda.zero(array, self._steps)

    def close(self) -> None:
        """Free everything on the device; nothing of the lane may be used afterwards."""
        with contextlib.suppress(BackendError, AttributeError):
            self._cuda.synchronize(self._steps)
        for graph in self._graphs.values():
            with contextlib.suppress(BackendError):
                self._cuda.call("cudaGraphExecDestroy", graph)
        self._graphs.clear()
        self._stack.close()
