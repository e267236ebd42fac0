"""Labels of large frames in strips: the lowering never stores the scores of all pixels at once.

A strip is enlarged together with one row of scores above and below it, whose own pixels are then
cut off: bilinear interpolation reads no further. Where the factor is a power of two, its weights
are exact, so that every label equals the one that is made at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from streamseg.export.attention_strips import SCORES_LIMIT
from streamseg.export.shaped_graph import ShapedGraph
from streamseg.plugins.table import DOMAIN, UPSAMPLE_ARGMAX

# Bytes of all scores, in float32, from which strips are made; a strip takes ``SCORES_LIMIT``.
LARGE_SCORES = 128 << 20


@dataclass(frozen=True)
class LabelStrips:
    """How the scores are cut.

    Attributes:
        rows: of the scores.
        each: rows of a strip; the last may have fewer.
        factor: pixels per row of the scores.
    """

    rows: int
    each: int
    factor: int

    def body(self) -> str:
        """Lines of an ONNX function from ``scores`` and ``column_count`` to ``best``, int64."""
        starts = range(0, self.rows, self.each)
        lines = [self._strip(index, start) for index, start in enumerate(starts)]
        parts = ", ".join(f"best{index}" for index in range(len(starts)))
        axis = "axis2 = Constant <value = int64[1] {2}> ()"
        return axis + "".join(lines) + f"\n      best = Concat <axis = 1> ({parts})"

    def _strip(self, index: int, start: int) -> str:
        stop = min(start + self.each, self.rows)
        above, below = max(start - 1, 0), min(stop + 1, self.rows)
        top = (start - above) * self.factor
        bounds = {
            "from": above,
            "to": below,
            "high": (below - above) * self.factor,
            "top": top,
            "bottom": top + (stop - start) * self.factor,
        }
        constants = "".join(
            f"\n      {name}{index} = Constant <value = int64[1] {{{value}}}> ()"
            for name, value in bounds.items()
        )
        return f"""{constants}
      part{index} = Slice (scores, from{index}, to{index}, axis2)
      sizes{index} = Concat <axis = 0> (leading, high{index}, column_count)
      wide{index} = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
          (part{index}, , , sizes{index})
      full{index} = Slice (wide{index}, top{index}, bottom{index}, axis2)
      best{index} = ArgMax <axis = 1, keepdims = 0> (full{index})"""


def plan_label_strips(model: ModelProto) -> LabelStrips | None:
    """Strips for a model's labels; ``None`` where they are small, or strips would not be exact."""
    nodes = [
        node
        for node in model.graph.node
        if node.domain == DOMAIN and node.op_type == UPSAMPLE_ARGMAX.name
    ]
    if not nodes:
        return None
    graph = ShapedGraph(model)
    plans = {_plan(graph, node) for node in nodes}
    return plans.pop() if len(plans) == 1 else None


def _plan(graph: ShapedGraph, node: NodeProto) -> LabelStrips | None:
    size = {entry.name: entry.i for entry in node.attribute}
    shape = graph.shapes.get(node.input[0], ())
    if len(shape) != 4:
        return None
    batch, classes, rows, _ = shape
    total = batch * classes * size["height"] * size["width"] * 4
    factor = size["height"] // rows
    exact = size["height"] == rows * factor and factor & (factor - 1) == 0
    if total <= LARGE_SCORES or not exact:
        return None
    return LabelStrips(rows, max(1, rows * SCORES_LIMIT // total), factor)
