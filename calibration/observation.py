"""Measuring what activations do over replayed clips: ranges and channel magnitudes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from streamseg.calibration.histograms import METHODS, Histogram, Method
from streamseg.calibration.layers import GraphIndex, Layer, find_layers
from streamseg.calibration.plan import Order
from streamseg.calibration.replay import Image, Replayer, Segment
from streamseg.errors import BundleError, DatasetError
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.bundle.bundle import Bundle

RANGES = "calibration/ranges.json"
_FORMAT = 1
SMOOTHING = 0.5  # share of the outliers that moves from activations into weights

Factors = NDArray[np.float32]


@dataclass(frozen=True)
class Ranges:
    """Calibrated ranges of a bundle's activations.

    Attributes:
        source: identity of the float32 bundle that they belong to.
        largest: graph -> tensor -> method -> largest magnitude.
        smoothing: graph -> tensor -> factor of each channel; ranges hold after division by it.
        record: what was replayed, for reports.
    """

    source: str
    largest: Mapping[str, Mapping[str, Mapping[Method, float]]]
    smoothing: Mapping[str, Mapping[str, Factors]]
    record: Mapping[str, Any] = field(default_factory=dict)

    def of(self, graph: str, method: Method) -> dict[str, float]:
        """Tensor -> largest magnitude by one method."""
        return {name: values[method] for name, values in self.largest.get(graph, {}).items()}

    def to_json(self) -> str:
        """JSON that ``read_ranges`` reads back."""
        smoothing = {
            graph: {name: [float(value) for value in factors] for name, factors in tensors.items()}
            for graph, tensors in self.smoothing.items()
        }
        content = {
            "format": _FORMAT,
            "source": self.source,
            "record": dict(self.record),
            "largest": self.largest,
            "smoothing": smoothing,
        }
        return json.dumps(content, indent=1) + "\n"


def read_ranges(path: Path) -> Ranges:
    """Read ranges from a calibrated bundle, or from its ``ranges.json``.

    Raises:
        BundleError: not there, or damaged.
    """
    file = path / RANGES if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise BundleError(f"{file} has format {content['format']}, expected {_FORMAT}")
        smoothing = {
            graph: {name: np.array(values, np.float32) for name, values in tensors.items()}
            for graph, tensors in content["smoothing"].items()
        }
        largest = {
            graph: {
                name: {method: float(values[method]) for method in METHODS}
                for name, values in tensors.items()
            }
            for graph, tensors in content["largest"].items()
        }
        return Ranges(content["source"], largest, smoothing, content["record"])
    except OSError as error:
        raise BundleError(f"no calibrated ranges at {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{file} holds no calibrated ranges: {error!r}") from None


class _ChannelPeaks:
    """Largest magnitude of each channel (last axis) of some tensors."""

    def __init__(self) -> None:
        self.peaks: dict[tuple[str, str], Factors] = {}

    def add(self, graph: str, name: str, value: NDArray[np.float32]) -> None:
        found = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
        known = self.peaks.get((graph, name))
        self.peaks[graph, name] = found if known is None else np.maximum(known, found)


def smoothable(model: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, str]:
    """Tensors whose channels can be scaled for free: tensor -> initialiser that scales it.

    These are products with a constant vector (an RMSNorm's weight) that only INT8 linear layers
    read, so that dividing the constant and multiplying the layers' rows changes nothing else.
    """
    index = GraphIndex(model)
    linear = {layer.node for layer in layers if layer.kind == "linear"}
    outputs = {entry.name for entry in model.graph.output}
    found = {}
    for source in dict.fromkeys(layer.source for layer in layers):
        node = index.producer.get(source)
        if node is None or node.op_type != "Mul" or source in outputs:
            continue
        scales = [
            name
            for name in node.input
            if name in index.initializers
            and len(index.initializers[name].dims) == 1
            and len(index.consumers[name]) == 1
        ]
        if len(scales) == 1 and all(after.name in linear for after in index.consumers[source]):
            found[source] = scales[0]
    return found


def smoothing_factors(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    peaks: Mapping[str, Factors],
    *,
    strength: float = SMOOTHING,
) -> dict[str, Factors]:
    """Per-channel divisors of activations: peak(x)^a / peak(w)^(1-a), geometric mean 1.

    Source: SmoothQuant (Xiao et al., ICML 2023) eq. 4.
    """
    index = GraphIndex(model)
    factors = {}
    for source, peak in peaks.items():
        rows = np.zeros_like(peak)
        for layer in layers:
            if layer.source == source:
                weight = numpy_helper.to_array(index.initializers[layer.weight])
                rows = np.maximum(rows, np.abs(weight).max(axis=1))
        tiny = np.float32(1e-8)
        raw = np.maximum(peak, tiny) ** strength / np.maximum(rows, tiny) ** (1 - strength)
        factors[source] = np.asarray(raw / np.exp(np.log(raw).mean()), np.float32)
    return factors


def observe(
    bundle: Bundle,
    segments: Sequence[Segment],
    options: BackendOptions,
    *,
    order: Order = "stateful",
    smooth: bool = True,
    seed: int = 0,
    record: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> Ranges:
    """Replay segments and measure every activation that INT8 layers read.

    Args:
        bundle: float32 bundle.
        segments: what to replay; the state is reset where each begins and carried through it.
        options: how to run.
        order: ``shuffled`` feeds the same frames as unrelated images instead, in random order and
            with the state reset before each: what tools that cannot feed state do.
        smooth: find smoothing factors first, on a quarter of the segments.
        seed: of the shuffling.
        record: goes into the result's ``record``.
        progress: called after each frame with the segment's name.

    Raises:
        DatasetError: no frame, a damaged one, or clips too short to reach every graph.
    """
    models = {name: onnx.load_from_string(content) for name, content in bundle.graphs.items()}
    layers = {name: find_layers(model) for name, model in models.items()}
    taps = {
        name: list(dict.fromkeys(layer.source for layer in found)) for name, found in layers.items()
    }
    factors: dict[str, dict[str, Factors]] = {name: {} for name in models}
    targets = {name: list(smoothable(models[name], layers[name])) for name in models}
    if smooth and any(targets.values()):
        peaks = _ChannelPeaks()
        few = segments[:: max(1, len(segments) // max(1, len(segments) // 4))]
        replayer = Replayer(bundle, targets, options)
        for graph, tensors in _run(replayer, few, order, seed, progress):
            for name, value in tensors.items():
                peaks.add(graph, name, value)
        for graph in models:
            mine = {name: peak for (owner, name), peak in peaks.peaks.items() if owner == graph}
            factors[graph] = smoothing_factors(models[graph], layers[graph], mine)
    histograms = {(g, name): Histogram() for g, names in taps.items() for name in names}
    frames = 0
    reached = set()
    for graph, tensors in _run(Replayer(bundle, taps, options), segments, order, seed, progress):
        frames += 1
        reached.add(graph)
        for name, value in tensors.items():
            scale = factors[graph].get(name)
            _add(histograms[graph, name], value if scale is None else value / scale, name)
    for name in taps:
        if taps[name] and name not in reached:
            raise DatasetError(
                f"no frame reached the bundle's graph '{name}', so its ranges are unknown: give "
                "longer clips in order (streamseg inspect shows when which graph runs)"
            )
    largest: dict[str, dict[str, dict[Method, float]]] = {name: {} for name in models}
    for (graph, name), histogram in histograms.items():
        largest[graph][name] = {method: histogram.threshold(method) for method in METHODS}
    told = {**(record or {}), "order": order, "frames": frames, "segments": _names(segments)}
    return Ranges(bundle.identity, largest, factors, told)


def _add(histogram: Histogram, value: NDArray[np.float32], name: str) -> None:
    try:
        histogram.add(value)
    except ValueError:
        raise BundleError(
            f"'{name}' is not finite while replaying: the float32 bundle itself is broken"
        ) from None


def _names(segments: Sequence[Segment]) -> list[str]:
    return [segment.name for segment in segments]


def _run(
    replayer: Replayer,
    segments: Sequence[Segment],
    order: Order,
    seed: int,
    progress: Progress,
) -> Any:
    """Yield (graph, tapped tensors) of every frame."""
    count = 0
    if order == "shuffled":
        images: list[tuple[Segment, Image]] = [
            (segment, image) for segment in segments for image in segment.images()
        ]
        random.Random(seed).shuffle(images)
        for segment, image in images:
            replayer.reset()
            yield replayer.step(image)
            count += 1
            progress(segment.name)
    else:
        for segment in segments:
            replayer.reset()
            for image in segment.images():
                yield replayer.step(image)
                count += 1
                progress(segment.name)
    if not count:
        raise DatasetError("calibration saw no frame: the dataset's clips are empty")
