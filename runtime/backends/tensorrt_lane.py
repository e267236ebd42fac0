"""One stream's steps through TensorRT, replayed from CUDA graphs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from streamseg.errors import BackendError, FrameMismatch
from streamseg.runtime.backends.cuda import Cuda, DeviceArray
from streamseg.runtime.backends.device_buffers import DeviceBuffers, StepSlot
from streamseg.runtime.backends.device_lane import DeviceLane
from streamseg.runtime.backends.interface import Feed, StepPlan
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

# Frames of other libraries come at addresses that recur, or not; graphs are kept for so many.
MAX_GRAPHS = 64
# Steps of a graph between a refused capture and the next attempt, doubled up to ten times.
RETRY_AFTER, MAX_DOUBLINGS = 16, 10
# Of the addresses of inputs and outputs (NvInferRuntime.h, setTensorAddress).
ALIGNMENT = 256


class Engines(Protocol):
    """What a lane needs of its executable."""

    cuda: Cuda
    log: Any

    def context_size(self, graph: str) -> int:
        """Bytes of device memory that a context of a graph works in."""

    def new_context(self, graph: str, memory: DeviceArray) -> Any:
        """An execution context of a graph that works in this memory."""


# A plan on a slot's buffers and a frame's address: what a captured graph has baked in.
GraphKey = tuple[StepPlan, int, int]


class TensorRtLane(DeviceLane):
    """One execution context for every graph, all in one block of memory: they run one by one."""

    def __init__(
        self, engines: Engines, manifest: Manifest, *, on_close: Callable[[TensorRtLane], None]
    ) -> None:
        self._log, self._on_close = engines.log, on_close
        self._graphs: dict[GraphKey, Any] = {}
        self._seen: set[GraphKey] = set()
        self._patience: dict[str, int] = {}  # steps of a graph until it is captured again
        self._refused: dict[str, int] = {}  # times that its capture was refused
        self._contexts: dict[str, Any] = {}
        with engines.cuda.device(), contextlib.ExitStack() as undo:
            buffers = DeviceBuffers(engines.cuda, manifest)
            super().__init__(buffers, manifest)
            undo.callback(self.close)
            size = max(engines.context_size(name) for name in manifest.graphs)
            memory = buffers.allocate((size,), "uint8")
            buffers.before_release(self._contexts.clear)
            for name in manifest.graphs:
                self._contexts[name] = engines.new_context(name, memory)
            self._warm_up()
            undo.pop_all()

    def _warm_up(self) -> None:
        """Run every graph once: TensorRT must before it is captured. Writes go to scratch."""
        slot, steps = self._buffers.slots[0], self._buffers.steps
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
                self._cuda.synchronize(steps)
            finally:
                for array in scratch.values():
                    with contextlib.suppress(BackendError):
                        self._cuda.free(array)

    def _require_usable(self, frame: DeviceArray) -> None:
        super()._require_usable(frame)
        if frame.pointer % ALIGNMENT:
            raise FrameMismatch(
                f"the frame is at {frame.pointer:#x} in device memory, and TensorRT takes "
                f"multiples of {ALIGNMENT} bytes; copy it into an array of its own there"
            )

    def _launch(self, plan: StepPlan, slot: StepSlot, frame: DeviceArray) -> None:
        """Replay the plan's graph; a plan met for the first time is captured, then replayed.

        Frames of others are captured when their address comes back.
        """
        key = (plan, slot.index, frame.pointer)
        graph = self._graphs.get(key)
        if graph is None:
            self._bind(plan, slot, frame.pointer)
            if frame is slot.device_frame or key in self._seen:
                graph = self._capture(key)
            elif len(self._seen) < 16 * MAX_GRAPHS:
                self._seen.add(key)
        if graph is None:
            self._enqueue(plan.graph)
        else:
            self._cuda.call("cudaGraphLaunch", graph, self._buffers.steps)

    def _capture(self, key: GraphKey) -> Any | None:
        """A graph of the step, or ``None`` where that is refused; it is tried again later.

        A refusal may pass: TensorRT-RTX compiles kernels beside the first steps, and another
        thread's call may break a capture. The pause doubles each time.
        """
        name = key[0].graph
        if self._patience.get(name, 0) > 0:
            self._patience[name] -= 1
            return None
        steps = self._buffers.steps
        asked = getattr(self._contexts[name], "is_stream_capturable", None)  # TensorRT-RTX only
        try:
            if asked is not None and not asked(int(steps)):
                raise BackendError("TensorRT-RTX has kernels of it to compile yet")
            graph = self._cuda.capture(steps, lambda: self._enqueue(name))
        except BackendError as error:
            refused = self._refused.get(name, 0)
            self._patience[name] = RETRY_AFTER << min(refused, MAX_DOUBLINGS)
            self._refused[name] = refused + 1
            level = logging.INFO if refused else logging.WARNING
            logger.log(level, "graph '%s' runs without a CUDA graph: %s", name, error)
            return None
        if len(self._graphs) >= MAX_GRAPHS:
            self._cuda.synchronize(steps)
            self._cuda.call("cudaGraphExecDestroy", self._graphs.pop(next(iter(self._graphs))))
        self._graphs[key] = graph
        return graph

    def _bind(self, plan: StepPlan, slot: StepSlot, frame: int) -> None:
        self._set(plan.graph, "frame", frame)
        for feed in (*plan.reads, *plan.writes):
            self._set(plan.graph, feed.tensor, self._buffers.state[feed.state][feed.buffer].pointer)
        for tensor in self._manifest.graphs[plan.graph].outputs:
            self._set(plan.graph, tensor, slot.device_outputs[tensor].pointer)

    def _set(self, graph: str, tensor: str, pointer: int) -> None:
        if not self._contexts[graph].set_tensor_address(tensor, pointer):
            raise BackendError(
                f"TensorRT refuses the buffer of '{tensor}' in graph '{graph}': {self._log.reason}"
            )

    def _enqueue(self, graph: str) -> None:
        if not self._contexts[graph].execute_async_v3(int(self._buffers.steps)):
            raise BackendError(f"TensorRT does not run graph '{graph}': {self._log.reason}")

    def close(self) -> None:
        """Free everything on the device; nothing of the lane may be used afterwards."""
        self._closed = True
        with contextlib.suppress(BackendError), self._cuda.device():
            self._cuda.synchronize(self._buffers.steps)
            for graph in self._graphs.values():
                self._cuda.try_call("cudaGraphExecDestroy", graph)
        self._graphs.clear()
        self._buffers.close()
        self._on_close(self)
