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
from streamseg.runtime.backends.interface import plan_step
from streamseg.runtime.backends.onnxruntime import (
    find_native,
    import_onnxruntime,
    open_cpu_session,
)
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.video.resize import FitMode, FrameFitter

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


class Replayer:
    """Steps a bundle's graphs frame by frame and hands out tensors from inside them.

    Args:
        bundle: verified bundle.
        taps: for each graph the tensors to hand out.
        options: native operators and threads.
        graphs: ONNX bytes to run in the place of the bundle's, by graph name.
    """

    def __init__(
        self,
        bundle: Bundle,
        taps: Mapping[str, Sequence[str]],
        options: BackendOptions,
        *,
        graphs: Mapping[str, bytes] | None = None,
    ) -> None:
        self.manifest: Manifest = bundle.manifest
        self._given = bundle.given
        self._taps = {name: list(taps.get(name, ())) for name in bundle.graphs}
        self._sessions = {
            name: _open_session(_with_outputs(content, self._taps[name]), options)
            for name, content in {**bundle.graphs, **(graphs or {})}.items()
        }
        unset = {spec.name for spec in self.manifest.state if spec.kind == "given"} - set(
            self._given
        )
        if unset:
            raise StateMismatch(
                f"{bundle.path} holds no values of {', '.join(sorted(unset))}; "
                "make them with: streamseg prototypes BUNDLE --source VIDEO"
            )
        self._fitter: FrameFitter | None = None
        self._frame = np.empty(self.manifest.frame.shape, np.uint8)
        self.reset()

    def reset(self) -> None:
        """Zero the state."""
        self._step = 0
        self._state = {
            (spec.name, buffer): self._given.get(spec.name, np.zeros(spec.shape, spec.dtype))
            for spec in self.manifest.state
            for buffer in range(spec.buffers)
        }

    def step(self, image: Image) -> tuple[str, Tensors]:
        """Run one frame of any size; returns the graph's name and its tapped tensors."""
        self._fit(image)
        plan = plan_step(self.manifest, self._step)
        feeds: dict[str, NDArray[Any]] = {"frame": self._frame}
        feeds.update({feed.tensor: self._state[feed.state, feed.buffer] for feed in plan.reads})
        taps = self._taps[plan.graph]
        wanted = [*taps, *(feed.tensor for feed in plan.writes)]
        try:
            # Asked for nothing, ONNX Runtime would hand out everything.
            found = self._sessions[plan.graph].run(wanted, feeds) if wanted else []
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise BackendError(f"ONNX Runtime failed while replaying: {error}") from error
        for feed, value in zip(plan.writes, found[len(taps) :], strict=True):
            self._state[feed.state, feed.buffer] = value
        self._step += 1
        return plan.graph, dict(zip(taps, found, strict=False))

    def _fit(self, image: Image) -> None:
        size = image.shape[0], image.shape[1]
        if self._fitter is None or self._fitter.frame_size != size:
            spec = self.manifest.frame
            mode: FitMode = "letterbox" if spec.resize == "letterbox" else "stretch"
            red, green, blue = (round(value) for value in spec.mean)
            model_size = (spec.height, spec.width)
            self._fitter = FrameFitter(size, model_size, mode, fill=(red, green, blue))
        self._fitter.fit(image, self._frame[0])


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
