"""One stream's steps through ONNX Runtime's CUDA provider: buffers bound once, graphs replayed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from streamseg.errors import BackendError
from streamseg.runtime.backends.arrays import DeviceFrame
from streamseg.runtime.backends.cuda import Cuda, DeviceArray
from streamseg.runtime.backends.device_buffers import DeviceBuffers, StepSlot
from streamseg.runtime.backends.device_lane import DeviceLane
from streamseg.runtime.backends.interface import StepPlan, plan_step
from streamseg.runtime.backends.onnxruntime import first_line
from streamseg.runtime.bundle.manifest import Manifest

# Steps kept as CUDA graphs, for each lane; the rest are launched kernel by kernel.
MAX_GRAPHS = 64
# Steps looked at to find those that recur.
HORIZON = 1024
NO_GRAPH = -1  # ONNX Runtime's mark for a run that is neither captured nor replayed


@dataclass(frozen=True)
class CudaSession:
    """A session, and what its placement of the graph asks of whoever binds its inputs.

    Attributes:
        session: ONNX Runtime's.
        captures: it keeps steps as CUDA graphs.
        host_inputs: inputs whose consumer may be on the host. ONNX Runtime copies these when they
            are bound, so that they have to be bound again for every step.
    """

    session: Any
    captures: bool
    host_inputs: frozenset[str]


class SharedSessions(Protocol):
    """What a lane needs of its executable: one stream, one thread, a session for each graph."""

    @property
    def runtime(self) -> Any:
        """The module of ONNX Runtime."""

    @property
    def cuda(self) -> Cuda:
        """The device."""

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""

    @property
    def steps(self) -> Any:
        """The stream that all steps run on."""

    @property
    def worker(self) -> ThreadPoolExecutor:
        """The thread that all steps run in."""

    @property
    def graph_ids(self) -> Iterator[int]:
        """Numbers of CUDA graphs that are not used yet."""

    @property
    def sessions(self) -> Mapping[str, CudaSession]:
        """By graph."""

    def take_back(self, buffers: CapturedBuffers) -> None:
        """Keep the buffers of a lane that closes for the next one."""


@dataclass(frozen=True)
class BoundStep:
    """A plan on a slot's buffers: what a CUDA graph has baked in.

    Attributes:
        binding: of ONNX Runtime.
        options: run options with the graph's number.
        host_inputs: name -> array of what has to be bound for every step.
    """

    binding: Any
    options: Any
    host_inputs: dict[str, DeviceArray]


class CapturedBuffers(DeviceBuffers):
    """One stream's buffers, with every step that recurs bound and captured on them.

    They outlive their lane: the addresses are baked into graphs that live as long as the session.
    """

    def __init__(self, executable: SharedSessions) -> None:
        super().__init__(executable.cuda, executable.manifest, executable.steps)
        self._executable = executable
        self.bindings: dict[tuple[StepPlan, int], BoundStep] = {}

    def prepare(self) -> None:
        """Run every step that recurs once, on empty state, so that later ones are replayed.

        ONNX Runtime runs a step several times before it captures it; that changes nothing, since
        the manifest lets no step write what it reads.
        """
        with self.cuda.device():
            for plan in recurring_plans(self._executable.manifest, MAX_GRAPHS // len(self.slots)):
                for slot in self.slots:
                    self.run(plan, slot)
            self.clear()
            self.cuda.synchronize(self.steps)

    def reset(self) -> None:
        """Reset for the next lane."""
        self.clear()
        for slot in self.slots:
            slot.owner, slot.unwatched, slot.fetched = None, False, False
            slot.uses += 1  # labels that somebody still holds are not its results
            slot.consumers.clear()

    def settle_quietly(self) -> bool:
        """Wait for the device; whether it still answers."""
        try:
            with self.cuda.device():
                self.settle()
        except BackendError:
            return False
        return True

    def run(self, plan: StepPlan, slot: StepSlot) -> None:
        """Put a step on the stream of steps; called in the executable's thread."""
        entry = self._executable.sessions.get(plan.graph)
        if entry is None:
            raise BackendError("the stream is closed")
        try:
            step = self.bindings.get((plan, slot.index))
            if step is None:
                step = self.bindings[plan, slot.index] = self._bind(entry, plan, slot)
            if step.host_inputs:
                # These are copied now, by a copy that does not wait for our stream.
                self.cuda.synchronize(self.steps)
                for tensor, array in step.host_inputs.items():
                    _bind_input(step.binding, tensor, array)
            entry.session.run_with_iobinding(step.binding, step.options)
        except BackendError:
            raise
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise BackendError(_describe_failure(plan.graph, error)) from error

    def _bind(self, entry: Any, plan: StepPlan, slot: StepSlot) -> BoundStep:
        binding = entry.session.io_binding()
        inputs = {"frame": slot.device_frame}
        inputs |= {feed.tensor: self.state[feed.state][feed.buffer] for feed in plan.reads}
        outputs = {feed.tensor: self.state[feed.state][feed.buffer] for feed in plan.writes}
        for tensor in self._executable.manifest.graphs[plan.graph].outputs:
            outputs[tensor] = slot.device_outputs[tensor]
        rebound = {tensor: inputs[tensor] for tensor in entry.host_inputs}
        for tensor, array in inputs.items():
            if tensor not in rebound:
                _bind_input(binding, tensor, array)
        for tensor, array in outputs.items():
            kind = np.dtype(array.dtype).type
            binding.bind_output(tensor, "cuda", 0, kind, list(array.shape), array.pointer)
        return BoundStep(binding, self._options(entry.captures and not rebound), rebound)

    def _options(self, capture: bool) -> Any:
        options = self._executable.runtime.RunOptions()
        # Events order what follows; the host does not wait.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        number = NO_GRAPH
        if capture and len(self.bindings) < MAX_GRAPHS:
            number = next(self._executable.graph_ids)
        options.add_run_config_entry("gpu_graph_id", str(number))
        return options


def _bind_input(binding: Any, tensor: str, array: DeviceArray) -> None:
    kind = np.dtype(array.dtype).type
    binding.bind_input(tensor, "cuda", 0, kind, list(array.shape), array.pointer)


def _describe_failure(graph: str, error: Exception) -> str:
    """What ONNX Runtime says, and what to do where the device is out of memory."""
    text = first_line(error)
    if found := re.search(r"CUDA failure \d+: ([^;]+)", str(error)):
        text = f"CUDA: {found[1].strip()}"  # behind a line of C++ types
    if "out of memory" in str(error) or "Failed to allocate memory" in str(error):
        text += "; the GPU is out of memory: close other programs that use it, or export the "
        text += "model at a smaller --size"
    return f"graph '{graph}' failed: {text}"


def recurring_plans(manifest: Manifest, limit: int) -> Iterator[StepPlan]:
    """Different plans in the order of their first step, at most ``limit``."""
    seen: set[StepPlan] = set()
    for step in range(HORIZON):
        plan = plan_step(manifest, step)
        if plan not in seen:
            if len(seen) == limit:
                return
            seen.add(plan)
            yield plan


class OnnxRuntimeCudaLane(DeviceLane):
    """Steps run in the executable's thread, on buffers that were bound and captured before."""

    def __init__(self, executable: SharedSessions, buffers: CapturedBuffers) -> None:
        super().__init__(buffers, executable.manifest)
        self._executable, self._captured = executable, buffers
        with self._cuda.device():
            buffers.reset()

    def _submit(self, job: Callable[[], None]) -> Future[None]:
        def run() -> None:
            with self._cuda.device():
                job()

        try:
            return self._executable.worker.submit(run)
        except RuntimeError as error:  # it was shut down
            raise BackendError("the stream is closed") from error

    def _launch(self, plan: StepPlan, slot: StepSlot, frame: DeviceArray) -> None:
        """Replay the plan's graph; a frame of another library is copied to where it reads."""
        if frame is not slot.device_frame:
            self._cuda.copy(slot.device_frame, frame, self._buffers.steps)
        self._captured.run(plan, slot)

    def _begin_device(self, plan: StepPlan, slot: StepSlot, frame: DeviceFrame) -> None:
        super()._begin_device(plan, slot, frame)
        if self._buffers.in_place:
            self._watch(slot)  # the host writes the slot's next frame where this one was copied

    def close(self) -> None:
        """Wait for the steps begun, and leave the buffers to the next lane."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(BackendError):
            self._settle()
        if self._captured.settle_quietly():
            self._executable.take_back(self._captured)
