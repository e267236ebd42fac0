"""Replaying clips through a bundle with state, looking at tensors inside its graphs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from streamseg.errors import BackendError, DatasetError, StateMismatch
from streamseg.evaluation.datasets import Clip, Dataset, StillClip
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.backends.interface import StepPlan
from streamseg.runtime.backends.onnxruntime import (
    OnnxRuntimeExecutable,
    OnnxRuntimeLane,
    find_native,
    import_onnxruntime,
    open_cpu_session,
)
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.stream import Stream

Image = NDArray[np.uint8]
Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Segment:
    """Frames ``start`` to ``stop`` (exclusive) of a clip; the state is reset where it begins."""

    clip: Clip
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Clip and frames, for records."""
        return f"{self.clip.name}[{self.start}:{self.stop}]"

    def images(self) -> Iterator[Image]:
        """Read the frames, (H, W, 3) uint8 RGB.

        Raises:
            DatasetError: one is damaged.
        """
        if isinstance(self.clip, StillClip):
            return (self.clip[i].image for i in range(self.start, min(self.stop, len(self.clip))))
        return (frame.image for frame in islice(self.clip, self.start, self.stop))


def choose_segments(dataset: Dataset, *, count: int, length: int, seed: int) -> list[Segment]:
    """Spread segments over a dataset.

    Clips are cut into segments of ``length`` frames; of all, in order, equal shares are formed and
    one is drawn from each, so that every part of the dataset is seen. Videos that do not say how
    long they are give one segment, their beginning.

    Raises:
        DatasetError: there is no frame.
    """
    segments = []
    for clip in dataset.clips:
        frames = length if clip.frame_count is None else clip.frame_count
        for start in range(0, frames, length):
            stop = min(start + length, frames)
            # A stub at the end of a clip would weigh as much as a whole segment.
            if start == 0 or stop - start > length // 2:
                segments.append(Segment(clip, start, stop))
    if not segments:
        raise DatasetError(f"{dataset.name} {dataset.split} at {dataset.root} has no frames")
    shares = min(count, len(segments))
    generator = random.Random(seed)
    borders = [i * len(segments) // shares for i in range(shares + 1)]
    return [segments[generator.randrange(borders[i], borders[i + 1])] for i in range(shares)]


class TappedLane(OnnxRuntimeLane):
    """A lane that also keeps tensors from inside the graph of the last step.

    Attributes:
        graph: that the last step ran.
        tapped: name -> content.
    """

    def __init__(
        self, executable: OnnxRuntimeExecutable, taps: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__(executable)
        self.graph = ""
        self.tapped: Tensors = {}
        self._taps = taps

    def start(self, plan: StepPlan) -> None:
        """Hand the plan's binding to the executable's thread."""
        self._names = self._bound_names(plan)
        super().start(plan)

    def _bound_names(self, plan: StepPlan) -> list[str]:
        """Outputs in the order in which ``_bind`` binds them."""
        outputs = self._executable.manifest.graphs[plan.graph].outputs
        written = (feed.tensor for feed in plan.writes)
        return list(dict.fromkeys((*written, *outputs, *self._taps[plan.graph])))

    def _bind(self, session: Any, plan: StepPlan) -> Any:
        binding = super()._bind(session, plan)
        for name in self._bound_names(plan)[len(binding.get_outputs()) :]:
            # ONNX Runtime makes a buffer at each run, when it knows the shape.
            binding.bind_output(name, "cpu")
        return binding

    def _run(self, session: Any, graph: str, binding: Any) -> None:
        super()._run(session, graph, binding)
        found = dict(zip(self._names, binding.get_outputs(), strict=True))
        self.graph = graph
        self.tapped = {name: np.array(found[name].numpy()) for name in self._taps[graph]}


class TappedExecutable(OnnxRuntimeExecutable):
    """Sessions of one bundle whose graphs hand out tensors from inside them, for one stream.

    Args:
        bundle: verified bundle.
        taps: graph -> the tensors to hand out.
        options: native operators and threads.
        graphs: ONNX bytes to run instead of the bundle's, by graph name.
    """

    lane: TappedLane

    def __init__(
        self,
        bundle: Bundle,
        taps: Mapping[str, Sequence[str]],
        options: BackendOptions,
        graphs: Mapping[str, bytes],
    ) -> None:
        self._taps = {name: list(taps.get(name, ())) for name in bundle.graphs}
        sessions = {
            name: _open_session(_with_outputs(content, self._taps[name]), options)
            for name, content in {**bundle.graphs, **graphs}.items()
        }
        super().__init__(import_onnxruntime(), sessions, bundle.manifest, description="replay")

    def new_lane(self) -> TappedLane:
        """Make the buffers of the stream."""
        self.lane = TappedLane(self, self._taps)
        return self.lane


class Replayer:
    """A stream over a bundle, as the runtime steps it, that hands out tensors from its graphs.

    Args:
        bundle: verified bundle.
        taps: for each graph the tensors to hand out.
        options: native operators and threads.
        graphs: ONNX bytes to run instead of the bundle's, by graph name.
    Raises:
        StateMismatch: the bundle holds no values of a given state.
    """

    def __init__(
        self,
        bundle: Bundle,
        taps: Mapping[str, Sequence[str]],
        options: BackendOptions,
        *,
        graphs: Mapping[str, bytes] | None = None,
    ) -> None:
        needed = {spec.name for spec in bundle.manifest.state if spec.kind == "given"}
        unset = needed - set(bundle.given)
        if unset:
            raise StateMismatch(
                f"{bundle.path} holds no values of {', '.join(sorted(unset))}; "
                "make them with: streamseg prototypes BUNDLE VIDEO"
            )
        self._executable = TappedExecutable(bundle, taps, options, graphs or {})
        self._stream = Stream(
            self._executable,
            bundle.manifest,
            identity=bundle.identity,
            letterbox=bundle.manifest.frame.resize == "letterbox",
            given=bundle.given,
        )

    def reset(self) -> None:
        """Zero the state."""
        self._stream.reset()

    def step(self, image: Image) -> tuple[str, Tensors]:
        """Run one frame of any size; returns the graph's name and its tapped tensors."""
        self._stream.step(image)
        return self._executable.lane.graph, self._executable.lane.tapped


def _with_outputs(content: bytes, names: Sequence[str]) -> bytes:
    """The graph with more outputs; their shapes are left to the runtime's inference."""
    if not names:
        return content
    model = onnx.load_from_string(content)
    known = {entry.name for entry in model.graph.output}
    for name in names:
        if name not in known:
            entry = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            model.graph.output.append(entry)
    extended: bytes = model.SerializeToString()
    return extended


def _open_session(content: bytes, options: BackendOptions) -> Any:
    runtime = import_onnxruntime()
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    # Taps change from frame to frame in number, not in size: an arena would only hold on to the
    # largest set.
    settings.enable_cpu_mem_arena = False
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    native = find_native(options)
    if native is not None:
        settings.register_custom_ops_library(native)
    try:
        return open_cpu_session(content, settings)
    except Exception as error:  # ONNX Runtime's errors share no public base class
        reason = str(error).splitlines()[0]
        raise BackendError(f"ONNX Runtime {runtime.__version__} refuses the graph: {reason}") from (
            error
        )
