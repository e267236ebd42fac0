"""A step graph for any number of streams up to N, made from one for exactly N.

A server that gathers the frames of those streams that are ready runs batches of every size. The
rows of a smaller batch are computed as those of a full one: shapes take their first axis from the
data, and constants that have a block for each stream are repeated while the graph runs.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorShapeProto, helper, numpy_helper

from streamseg.errors import ExportError, PluginNotFound
from streamseg.export.batched_bundle import AGREEMENT_LIMIT, LIMIT
from streamseg.export.batched_graph import GraphBatcher, check_batched
from streamseg.export.shaped_graph import Shape
from streamseg.plugins.loader import find_library
from streamseg.runtime.backends.onnxruntime import import_onnxruntime, open_cpu_session

AXIS = "streams"
_COUNT = "streams.count"
_SIZES = (1, 2)


def open_graph(content: bytes, count: int) -> bytes:
    """The file of a graph of ``count`` streams as that of one for as many as are ready.

    Raises:
        ExportError: see ``open_batch`` and ``compare_open``.
    """
    model = open_batch(onnx.load_from_string(content), count)
    opened: bytes = model.SerializeToString(deterministic=True)
    compare_open(content, opened)
    return opened


def open_batch(model: ModelProto, count: int) -> ModelProto:
    """A step graph of ``count`` streams as one of any number of streams.

    Args:
        model: inputs and outputs ``[count, ...]``, from ``batch_graph``; not modified.
        count: streams N, at least 2.
    Returns:
        The same inputs and outputs with an open first axis.
    Raises:
        ExportError: a node would mix the streams, or its constants are not the same for all.
    """
    made = ModelProto()
    made.CopyFrom(model)
    _Opener(made, count).apply()
    check_batched(made, "an open number of")
    return made


class _Opener(GraphBatcher):
    """Has the same rules for what keeps streams apart; shapes are those of N streams."""

    def __init__(self, model: ModelProto, count: int) -> None:
        super().__init__(model, count, streams=count)
        self._repeats: dict[str, str] = {}
        self._counts: list[NodeProto] = [
            helper.make_node("Shape", [model.graph.input[0].name], [_COUNT], _COUNT, start=0, end=1)
        ]

    def apply(self) -> None:
        super().apply()
        graph = self.model.graph
        nodes = [*self._counts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        self.shaped.update()
        self.shaped.remove_unread()

    def _set_first(self, dim: TensorShapeProto.Dimension) -> None:
        """Have an axis of N streams' blocks be that of as many streams as there are."""
        if dim.dim_value == self.count:
            dim.dim_param = AXIS
        else:
            dim.ClearField("dim_value")

    def _repeat(self, node: NodeProto, name: str) -> str:
        """A constant's block for one stream, as many times as there are streams."""
        if name not in self.values:
            raise self._refuse(node, f"reads '{name}', which is computed and the same for all")
        if name not in self._repeats:
            block = self._block(node, name, numpy_helper.to_array(self.values[name]))
            source = self.shaped.constant(f"{name}.block", block)
            times, repeated = self._led_by_count((1,) * block.ndim), f"{name}.repeated"
            self._counts.append(helper.make_node("Tile", [source, times], [repeated], repeated))
            self._repeats[name] = repeated
        return self._repeats[name]

    def _block(self, node: NodeProto, name: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
        blocks = np.split(value, self.count) if len(value) % self.count == 0 else []
        if not blocks or any((block != blocks[0]).any() for block in blocks):
            raise self._refuse(node, f"reads '{name}', which differs between streams")
        return blocks[0]

    def _led_by_count(self, shape: Shape) -> str:
        """``shape`` of one stream with its first axis for all, computed: int64 ``[rank]``."""
        name = ".".join(("streams", *map(str, shape)))
        if all(name not in node.output for node in self._counts):
            factors = self.shaped.constant(f"{name}.first", np.array(shape[:1], np.int64))
            rest = self.shaped.constant(f"{name}.rest", np.array(shape[1:], np.int64))
            first = f"{name}.product"
            self._counts += [
                helper.make_node("Mul", [_COUNT, factors], [first], first),
                helper.make_node("Concat", [first, rest], [name], name, axis=0),
            ]
        return name

    def _set_shape(self, node: NodeProto, index: int, shape: Shape) -> None:
        """Have an input be ``shape`` with a first axis for as many streams as there are."""
        if not shape or shape[0] % self.count or 0 in shape:
            raise self._refuse(node, f"makes {list(shape)} of {self.count} streams")
        if node.op_type == "Resize":
            node.input[index] = self._led_by_count((shape[0] // self.count, *shape[1:]))
            return
        # -1 of Reshape follows from the data; 1 of Expand keeps what is there.
        whole = (1 if node.op_type == "Expand" else -1, *shape[1:])
        name = self.shaped.constant("shape." + ".".join(map(str, whole)), np.array(whole, np.int64))
        if len(node.input) == index:
            node.input.append(name)
        node.input[index] = name


def compare_open(content: bytes, opened: bytes) -> None:
    """Compare small batches of an open graph with the same streams in a whole one, on the CPU.

    Args:
        content: graph of exactly N streams.
        opened: the graph that ``open_batch`` made of it.
    Raises:
        ExportError: a stream's results differ.
    """
    whole, small = _session(content), _session(opened)
    feeds = _noise(whole)
    names = [entry.name for entry in whole.get_outputs()]
    wanted = dict(zip(names, whole.run(names, feeds), strict=True))
    for size in _SIZES:
        rows = slice(-size, None)
        found = small.run(names, {name: array[rows] for name, array in feeds.items()})
        for name, got in zip(names, found, strict=True):
            if not _alike(got, wanted[name][rows]):
                raise ExportError(
                    f"'{name}' of {size} of {len(wanted[name])} streams differs from that of the "
                    "same streams in a whole batch. Nothing was written; serve the bundle of one "
                    "stream"
                )


def _session(content: bytes) -> Any:
    settings = import_onnxruntime().SessionOptions()
    settings.log_severity_level = 3
    with suppress(PluginNotFound):  # the graph has its own lowering
        settings.register_custom_ops_library(str(find_library()))
    return open_cpu_session(content, settings)


def _noise(session: Any) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for entry in session.get_inputs():
        if "uint8" in entry.type:
            feeds[entry.name] = random.integers(0, 256, entry.shape, dtype=np.uint8)
        else:
            kind = np.float16 if "float16" in entry.type else np.float32
            feeds[entry.name] = random.standard_normal(entry.shape).astype(kind)
    return feeds


def _alike(got: NDArray[Any], want: NDArray[Any]) -> bool:
    if got.shape != want.shape:
        return False
    if got.dtype == np.uint8:
        return bool((got == want).mean() >= AGREEMENT_LIMIT)
    difference = np.abs(got.astype(np.float64) - want).max(initial=0.0)
    return bool(difference <= LIMIT * np.abs(want).max(initial=0.0))
