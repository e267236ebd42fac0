"""From a float32 bundle and calibrated ranges to an INT8 bundle; which layers pay the most."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from streamseg._version import __version__
from streamseg.calibration.histograms import Method
from streamseg.calibration.layers import Layer, classifier_outputs, find_layers
from streamseg.calibration.observation import RANGES, Factors, Ranges, smoothable
from streamseg.calibration.qdq import insert_qdq
from streamseg.calibration.replay import Image, Replayer
from streamseg.errors import BundleError
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.export.fusion import FUSED_PARTS
from streamseg.runtime.backends import BackendOptions
from streamseg.runtime.bundle.bundle import MANIFEST, Bundle, digest, new_bundle
from streamseg.runtime.bundle.manifest import Manifest

REPORT = "calibration/report.html"


@dataclass(frozen=True)
class LayerError:
    """What quantising one layer alone does: relative error of the scores, root mean square."""

    name: str
    error: float


@dataclass(frozen=True)
class QuantisedGraphs:
    """INT8 graphs by name, and the layers that are INT8 or were kept in float32."""

    graphs: Mapping[str, ModelProto]
    layers: tuple[str, ...]
    kept: tuple[str, ...]


def smooth_graph(
    model: ModelProto, layers: Sequence[Layer], factors: Mapping[str, Factors]
) -> ModelProto:
    """Divide channels of activations by factors and multiply the weights that read them.

    The result computes the same up to rounding.

    Raises:
        BundleError: the factors do not belong to this graph.
    """
    if not factors:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    scales = smoothable(model, layers)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}

    def scale(name: str, factor: NDArray[np.float32]) -> None:
        value = np.asarray(numpy_helper.to_array(tensors[name]) * factor, np.float32)
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))

    for source, factor in factors.items():
        if source not in scales:
            raise BundleError(f"the ranges smooth '{source}', which this graph does not have")
        scale(scales[source], np.reciprocal(factor))
        for weight in dict.fromkeys(layer.weight for layer in layers if layer.source == source):
            scale(weight, factor[:, None])
    return result


def quantise(
    bundle: Bundle, ranges: Ranges, method: Method, *, keep_float: Collection[str] = ()
) -> QuantisedGraphs:
    """Quantise every graph of a bundle.

    Args:
        bundle: the float32 bundle.
        ranges: measured on it.
        method: which of the ranges to use.
        keep_float: layers to leave in float32.

    Raises:
        BundleError: the ranges are of another bundle.
    """
    if ranges.source != bundle.identity:
        raise BundleError(
            f"the ranges belong to the bundle {ranges.source[:12]}, this is "
            f"{bundle.identity[:12]}: calibrate this one"
        )
    graphs: dict[str, ModelProto] = {}
    names: list[str] = []
    for name, content in bundle.graphs.items():
        model = onnx.load_from_string(content)
        layers = find_layers(model)
        smooth = smooth_graph(model, layers, ranges.smoothing.get(name, {}))
        largest = ranges.of(name, method)
        graphs[name] = insert_qdq(smooth, layers, largest, keep_float=keep_float)
        names += [layer.name for layer in layers]
    done = tuple(name for name in names if name not in keep_float)
    return QuantisedGraphs(graphs, done, tuple(name for name in names if name in keep_float))


def rank_layers(
    bundle: Bundle,
    ranges: Ranges,
    method: Method,
    images: Sequence[Image],
    options: BackendOptions,
    *,
    progress: Progress = no_progress,
) -> list[LayerError]:
    """Quantise one layer at a time and measure the scores over a few frames, with state.

    Args:
        bundle: the float32 bundle.
        ranges: measured on it.
        method: which of the ranges to use.
        images: consecutive frames, (H, W, 3) uint8.
        options: how to run.
        progress: called after each layer with its name.

    Returns:
        Layers, worst first.
    """
    taps = {
        name: classifier_outputs(onnx.load_from_string(content))
        for name, content in bundle.graphs.items()
    }
    names = quantise(bundle, ranges, method).layers
    reference = _scores(Replayer(bundle, taps, options), images)
    size = np.sqrt(sum(float(np.square(score).sum()) for score in reference))
    errors = []
    for name in names:
        others = [other for other in names if other != name]
        graphs = quantise(bundle, ranges, method, keep_float=others).graphs
        contents = {key: graph.SerializeToString() for key, graph in graphs.items()}
        scores = _scores(Replayer(bundle, taps, options, graphs=contents), images)
        squares = [
            float(np.square(a - b, dtype=np.float64).sum())
            for a, b in zip(scores, reference, strict=True)
        ]
        errors.append(LayerError(name, float(np.sqrt(sum(squares)) / max(size, 1e-30))))
        progress(name)
    return sorted(errors, key=lambda entry: -entry.error)


def _scores(replayer: Replayer, images: Sequence[Image]) -> list[NDArray[np.float32]]:
    return [value for image in images for value in replayer.step(image)[1].values()]


@dataclass(frozen=True)
class Draft:
    """An INT8 bundle that is written but not yet in its place."""

    folder: Path
    manifest: Manifest

    def add(self, name: str, text: str) -> Draft:
        """Add a text file and list it in the manifest."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        content = text.encode()
        path.write_bytes(content)
        files = {**self.manifest.files, name: digest(content)}
        return self.describe(replace(self.manifest, files=files))

    def describe(self, manifest: Manifest) -> Draft:
        """Replace the manifest."""
        (self.folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return Draft(self.folder, manifest)


def write_int8_bundle(
    target: Path,
    bundle: Bundle,
    quantised: QuantisedGraphs,
    ranges: Ranges,
    method: Method,
    *,
    finish: Callable[[Draft], Draft] = lambda draft: draft,
) -> None:
    """Write an INT8 bundle as a whole, or leave what is there untouched.

    Args:
        target: folder; an older bundle there is replaced.
        bundle: the float32 bundle.
        quantised: its INT8 graphs.
        ranges: stored beside them, to be reused.
        method: recorded.
        finish: called with the complete draft before it takes its place, to measure it and to add
            a report.

    Raises:
        BundleError: the target cannot be written, or is not a bundle.
    """
    opened: AbstractContextManager[Path] = new_bundle(target)
    with opened as folder:
        graph_files = {graph.file for graph in bundle.manifest.graphs.values()}
        files = {}
        for name in bundle.manifest.files:
            # What states are given from; ranges and a report of an earlier calibration are not.
            if name not in graph_files and not name.startswith("calibration/"):
                files[name] = bundle.manifest.files[name]
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes((bundle.path / name).read_bytes())
        for name, graph in quantised.graphs.items():
            content = graph.SerializeToString(deterministic=True)
            file = bundle.manifest.graphs[name].file
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
            files[file] = digest(content)
        manifest = replace(
            bundle.manifest,
            files=files,
            made_by={**bundle.manifest.made_by, "calibration": __version__},
            precision=describe_precision(quantised, method, bundle.manifest),
            parity={},  # that of the float32 bundle says nothing of this one
        )
        draft = Draft(folder, manifest).add(RANGES, ranges.to_json())
        finish(draft)


def describe_precision(
    quantised: QuantisedGraphs, method: Method, source: Manifest
) -> dict[str, Any]:
    """What the manifest says about precision; fused operators keep the source's own."""
    return {
        **{part: source.precision[part] for part in FUSED_PARTS if part in source.precision},
        "layers": "int8",
        "rest": "float32",
        "weights": "per channel, symmetric",
        "activations": "per tensor, symmetric",
        "method": method,
        "int8_layers": len(quantised.layers),
        "float_layers": list(quantised.kept),
    }
