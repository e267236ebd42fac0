"""What a backend gives to the runtime: an executable, and lanes of buffers made once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamseg.errors import BackendError
from streamseg.runtime.backends.cuda import DeviceArray
from streamseg.runtime.bundle.manifest import Manifest

Array = npt.NDArray[np.generic]


def is_finite(array: Array) -> bool:
    """Whether an array holds no NaN and no infinity; allocates nothing of the array's size."""
    if array.dtype.kind != "f" or array.size == 0:
        return True
    # The extremes carry NaN along, so that two numbers tell all.
    return bool(np.isfinite(array.max()) and np.isfinite(array.min()))


@dataclass(frozen=True)
class BackendOptions:
    """How to load a bundle.

    Attributes:
        native: use the native operator library: ``True`` or fail, ``False`` never, ``None`` if it
            is there.
        library: absolute path of a native library to use instead of the installed one.
        threads: CPU threads of one step; ``None`` leaves it to the backend.
        engine: TensorRT engine file, or folder of them; ``None`` searches the cache.
    """

    native: bool | None = None
    library: Path | None = None
    threads: int | None = None
    engine: Path | None = None


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


def plan_step(manifest: Manifest, step: int) -> StepPlan:
    """What step number ``step`` (frames since reset) runs, from the manifest's schedule.

    Plans recur: equal plans compare equal, so that a backend prepares each once.
    """
    row = manifest.row_at(step)
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

    Ask for the attributes anew after every call: a lane may alternate between buffers.

    Attributes:
        depth: steps that may be under way at once.
        stream: handle of the CUDA stream that steps run on; 0 where there is none to know.
        frame: ``[H, W, 3]`` uint8, to be filled before a run.
        labels: ``[H, W]`` uint8, of the last step finished.
        logits: ``[K, H, W]`` float32, of the last step finished, or ``None``.
    """

    depth: int = 1
    stream: int = 0
    frame: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32] | None

    @abstractmethod
    def run(self, plan: StepPlan) -> None:
        """Run one step on ``frame``.

        Raises:
            BackendError: the backend failed; the state is then undefined until the next reset.
        """

    def run_beside(self, plan: StepPlan, work: Callable[[], None]) -> None:  # noqa: ARG002
        """``run``, with ``work`` on the host while the device steps; left out where none does."""
        self.run(plan)

    def prepare(self) -> None:  # noqa: B027 - nothing to send where steps run on the host
        """Begin the upload of ``frame`` ahead of its step; again, where it was filled anew."""

    def start(self, plan: StepPlan) -> None:
        """Begin a step on ``frame``; where a backend cannot overlap steps, this completes it."""
        self.run(plan)

    def finish(self) -> None:  # noqa: B027 - nothing to wait for where start completes
        """Wait for the oldest step begun; ``labels`` and ``logits`` are then its."""

    def run_device(self, plan: StepPlan, frame: DeviceArray) -> DeviceArray:  # noqa: ARG002
        """Run one step on a frame in device memory, without copying it.

        Args:
            plan: the step.
            frame: ``[1, H, W, 3]`` uint8 of the model's size, dense, kept alive by the caller
                until the step after this one.
        Returns:
            Labels ``[H, W]`` uint8 in device memory, valid until the next step.
        Raises:
            BackendError: this backend keeps no arrays on a device, or it failed.
        """
        raise BackendError(
            "this backend takes no frames from device memory; open the bundle with "
            "backend='tensorrt' or 'cuda'"
        )

    def close(self) -> None:  # noqa: B027 - NumPy's buffers need no release
        """Release the buffers; closing twice is fine."""

    @abstractmethod
    def read(self, state: str, buffer: int) -> Array:
        """A copy of one state buffer."""

    @abstractmethod
    def write(self, state: str, buffer: int, content: Array) -> None:
        """Overwrite one state buffer."""

    def finite(self, buffers: Sequence[tuple[str, int]]) -> bool:
        """Whether these ``(state, buffer)`` hold no NaN and no infinity.

        This copies each buffer to the host. A backend whose state lives on a device overrides it
        with one reduction there over all buffers, and brings back a single flag.
        """
        return all(is_finite(self.read(state, buffer)) for state, buffer in buffers)

    @abstractmethod
    def clear(self) -> None:
        """Zero every state buffer."""


class Executable(ABC):
    """A loaded bundle; several streams may share one, each with a lane of its own.

    Attributes:
        description: what runs, for people: backend, version, device, kernels.
    """

    description: str

    @abstractmethod
    def new_lane(self) -> Lane:
        """Make the buffers of one stream, state zeroed."""

    @abstractmethod
    def close(self) -> None:
        """Release what the backend holds; the executable's lanes must not run afterwards."""
