"""What a backend gives to the runtime: an executable, and lanes of buffers made once."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.counting import count_of
from streamseg.errors import BackendError
from streamseg.option_fields import option, precision_option
from streamseg.runtime.backends.arrays import DeviceFrame
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.bundle.manifest import Manifest

Array = npt.NDArray[np.generic]
THREADS_PER_PROCESSOR = 8
OPENVINO_PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def is_finite(array: Array) -> bool:
    """Whether an array holds no NaN and no infinity; allocates nothing of the array's size."""
    if array.dtype.kind != "f" or array.size == 0:
        return True
    # The extremes carry NaN along, so that two numbers suffice.
    return bool(np.isfinite(array.max()) and np.isfinite(array.min()))


def batch_wait_option() -> Any:
    """How long a batch waits, the same wherever a bundle is run or served."""
    return option(
        "Milliseconds that a batch waits for frames of further streams before it runs without "
        "them; for a bundle that was exported with --batch.",
        default=None,
        low=0,
        unset="10",
    )


def native_option() -> Any:
    """The wish for native operators, the same wherever a bundle is opened or built."""
    return option(
        "Require the native operators, or use their lowering to standard operators.",
        default=None,
        unset="native if available",
    )


def threads_option() -> Any:
    """CPU threads, the same wherever a bundle is run."""
    return option("CPU threads of one step.", default=None, low=1, unset="the backend decides")


def require_threads(options: BackendOptions) -> None:
    """Check that the threads of all steps at once are not far more than the processors.

    Raises:
        BackendError: they are; such a bundle takes minutes to open and runs more slowly.
    """
    threads, parallel = options.threads, options.parallel or 1
    if threads is None and parallel == 1:
        return
    processors = os.cpu_count() or 1
    most = THREADS_PER_PROCESSOR * processors
    given = f"threads is {threads}" if parallel == 1 else f"threads is {threads or 1} x {parallel}"
    if not 1 <= (1 if threads is None else threads) * parallel <= most:
        raise BackendError(
            f"{given}, expected 1 to {most}: this machine has {count_of(processors, 'processor')}"
        )


@dataclass(frozen=True)
class BackendOptions:
    """How to load a bundle.

    Attributes:
        native: use the native operator library: ``True`` or fail, ``False`` never, ``None`` if it
            is there.
        library: absolute path of a native library to use instead of the installed one.
        threads: CPU threads of one step; ``None`` leaves it to the backend.
        engine: TensorRT engine file, or folder of them; ``None`` searches the cache.
        device: OpenVINO's name of a device, such as ``CPU`` or ``GPU.1``; ``None``: the CPU.
        precision: OpenVINO's arithmetic: ``fp32``, ``bf16``, ``fp16``, or ``auto``: bfloat16 where
            it is measured to be faster. ``None``: ``auto`` with the backend ``openvino``, ``fp32``
            where the backend is chosen.
        parallel: steps of different streams that run at once, each on ``threads`` threads; only
            on the CPU. ``None``: one.
        batch_wait_ms: milliseconds that a batch waits for frames of further streams; ``None``: 10.
        warn_unverified: warn about engines that were not compared with ONNX Runtime.
    """

    native: bool | None = native_option()
    library: Path | None = option(
        "Library of native operators, an absolute path.", default=None, unset="the installed one"
    )
    threads: int | None = threads_option()
    engine: Path | None = option(
        "TensorRT engine, or a folder of engines.", default=None, unset="from the cache"
    )
    device: str | None = option(
        "Device: auto, cpu or cuda for PyTorch; CPU, GPU, GPU.1 or NPU for OpenVINO.",
        default=None,
    )
    precision: str | None = precision_option(
        default=None, choices=OPENVINO_PRECISIONS, unset="auto with OpenVINO"
    )
    parallel: int | None = option(
        "Steps of different streams that run at once, each on its own threads, on the CPU.",
        default=None,
        low=1,
        unset="one, or one a core for as many streams where that is faster",
    )
    batch_wait_ms: float | None = batch_wait_option()
    warn_unverified: bool = True


@dataclass(frozen=True)
class Feed:
    """Which buffer serves a graph's state input or output: ``(tensor name, state, buffer)``."""

    tensor: str
    state: str
    buffer: int


@dataclass(frozen=True)
class StepPlan:
    """One step: the graph to run, and the state buffers that it reads and writes."""

    graph: str
    reads: tuple[Feed, ...]
    writes: tuple[Feed, ...]


def plan_step(manifest: Manifest, step: int, graph_name: str | None = None) -> StepPlan:
    """What step number ``step`` (frames since reset) runs, from the manifest's schedule.

    Plans recur: equal plans compare equal, so that a backend prepares each once.

    Args:
        manifest: state table, graphs and schedule.
        step: its number.
        graph_name: run this graph, whatever the schedule says of this step.
    """
    row = manifest.row_at(step)
    if graph_name is not None:
        row = next(row for row in reversed(manifest.schedule) if row.graph == graph_name)
    graph = manifest.graphs[row.graph]
    reads: list[Feed] = []
    for name in graph.reads:
        spec = manifest.state_named(name)
        ages = row.ages.get(name, (1,))
        for tensor, age in zip(spec.inputs(len(ages)), ages, strict=True):
            reads.append(Feed(tensor, name, spec.read_index(step, age)))
    writes = [
        Feed(spec.output, spec.name, spec.write_index(step))
        for spec in map(manifest.state_named, graph.writes)
    ]
    return StepPlan(row.graph, tuple(reads), tuple(writes))


class Lane(ABC):
    """One stream's buffers on an executable: frame, labels, perhaps logits, and state.

    Every backend implements all of it. Read the attributes again after every call: a lane may
    alternate between buffers. ``read``, ``write``, ``finite``, ``clear`` and ``close`` take effect
    after the steps begun so far.

    Attributes:
        depth: steps that may be under way at once, now.
        stream: handle of the CUDA stream that steps run on; 0 where there is none.
        frame: ``[H, W, 3]`` uint8, to be filled before ``start``.
        labels: ``[H, W]`` uint8, of the last step finished.
    """

    depth: int
    stream: int
    frame: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    @property
    def patience(self) -> float:
        """Seconds for which the oldest step begun waits for frames of other streams; 0: it runs."""
        return 0.0

    @abstractmethod
    def start(self, plan: StepPlan) -> None:
        """Begin a step on ``frame`` and return; the host is free until ``finish``.

        Raises:
            BackendError: the backend failed, or ``depth`` steps are under way.
        """

    @abstractmethod
    def finish(self) -> None:
        """Wait for the oldest step begun; ``labels`` and ``read_logits`` are then its.

        Raises:
            BackendError: the step failed, and the state is undefined until the next reset; or no
                step is under way.
        """

    @abstractmethod
    def read_logits(self) -> npt.NDArray[np.float32] | None:
        """``[K, H, W]`` of the last step finished, valid until the next ``start``; or ``None``.

        A lane on a device downloads them now: most callers want labels only.

        Raises:
            BackendError: a later step has overwritten them, or the backend failed.
        """

    @abstractmethod
    def run_device(self, plan: StepPlan, frame: DeviceFrame) -> DeviceArray:
        """Run one step on a frame in device memory, which never travels through the host.

        Args:
            plan: the step.
            frame: ``[1, H, W, 3]`` uint8 of the model's size, dense; its owner is held until the
                step has read it.
        Returns:
            Labels ``[H, W]`` uint8 in device memory, valid until the step after next.
        Raises:
            BackendError: this backend keeps no arrays on a device, or it failed.
            FrameMismatch: the frame lies elsewhere, or at an address that the backend refuses.
        """

    @abstractmethod
    def read(self, state: str, buffer: int) -> Array:
        """A copy of one state buffer."""

    @abstractmethod
    def write(self, state: str, buffer: int, content: Array) -> None:
        """Overwrite one state buffer."""

    @abstractmethod
    def finite(self, buffers: Sequence[tuple[str, int]]) -> bool:
        """Whether these ``(state, buffer)`` hold no NaN and no infinity, seen where they live."""

    @abstractmethod
    def clear(self) -> None:
        """Zero every state buffer."""

    @abstractmethod
    def close(self) -> None:
        """Release the buffers; closing twice is fine."""


class Executable(ABC):
    """A loaded bundle; several streams may share one, each with a lane of its own.

    Attributes:
        description: what runs, human-readable: backend, version, device, kernels.
        parallel: steps of different lanes that run at once.
        cautions: why it is slower than it could be; ``load_executable`` logs them.
    """

    description: str
    parallel: int = 1
    cautions: Sequence[str] = ()

    @abstractmethod
    def new_lane(self) -> Lane:
        """Make the buffers of one stream, state zeroed."""

    @abstractmethod
    def close(self) -> None:
        """Release what the backend holds; the executable's lanes must not run afterwards."""
