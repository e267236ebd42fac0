"""What step graphs copy: Transposes and other moves, by family, in the graph and in ONNX Runtime.

    python benchmarks/copies.py       # writes benchmarks/results/copies.{json,md}

Every family is exported small, as it is and as the exporter leaves it (*before*), and opened in
ONNX Runtime's CPU provider with our operators, whose profile of one step says what was run and how
many bytes each node wrote. So are the street sample and TV3S-B1 at 512x1024.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), *(str(ROOT / place) for place in ("benchmarks", "benchmarks/gpu"))]

from make_bundles import seeded_b1  # noqa: E402
from measuring import describe_machine, write_results  # noqa: E402

import streamseg  # noqa: E402, F401 - finds the operators
from streamseg.export import graph as exported  # noqa: E402
from streamseg.export.checkpoint import load_checkpoint  # noqa: E402
from streamseg.export.graph import trace_step  # noqa: E402
from streamseg.export.models import segformer  # noqa: E402
from streamseg.export.movements import drop_copies  # noqa: E402
from streamseg.export.step import Size, StepModel  # noqa: E402
from streamseg.plugins.loader import find_library  # noqa: E402
from tests.export.tiny import FAMILIES, SIZE, build  # noqa: E402

HEAD = """# Copies in step graphs

Written by `benchmarks/copies.py` at commit {commit}, ONNX Runtime {runtime}. *Before* is the graph
as PyTorch's exporter leaves it, *after* as it is exported. Small models of families at 64x96, the
street sample at 256x512, TV3S-B1 (`b1`) at 512x1024;
ONNX Runtime's CPU provider with our operators, float32, one step. ONNX Runtime makes a Transpose
part of a product where it is next to one, so that fewer are run than exported.

"""
MODELS: dict[str, tuple[Callable[[], StepModel], Size]] = {
    **{family: (functools.partial(build, family), SIZE) for family in FAMILIES},
    "street": (lambda: load_checkpoint(ROOT / "samples/street/street.safetensors"), (256, 512)),
    "b1": (seeded_b1, (512, 1024)),
}
# Nodes that write what they read, in another place.
MOVES = ("Transpose", "Concat", "Slice", "Split", "Gather", "Pad", "Expand", "Tile")


def profile(model: onnx.ModelProto) -> dict[str, Any]:
    """Nodes and bytes of one step by kind."""
    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = 1, 3
        settings.enable_profiling, settings.profile_file_prefix = True, f"{folder}/p"
        settings.register_custom_ops_library(str(find_library()))
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        random = np.random.default_rng(0)
        session.run(None, {entry.name: values_of(entry, random) for entry in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes, written = Counter[str](), Counter[str]()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"]] += 1
            written[event["args"]["op_name"]] += int(event["args"]["output_size"])
    return {
        "nodes": sum(nodes.values()),
        "moves": {kind: nodes[kind] for kind in MOVES if nodes[kind]},
        "bytes": {kind: written[kind] for kind in MOVES if nodes[kind]},
    }


def values_of(entry: Any, random: np.random.Generator) -> Any:
    if entry.type == "tensor(uint8)":
        return random.integers(0, 256, entry.shape, dtype=np.uint8)
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    return np.zeros(entry.shape, kinds[entry.type])


def trace(model: StepModel, size: Size, graph: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A graph as exporter and published decoder leave it, and as it is exported."""
    with mock.patch.object(exported, "drop_copies"):
        after = trace_step(model, size, graph=graph).model
        with mock.patch.object(segformer, "FoldedConvolutionalDecoder", lambda head: head):
            decoder = isinstance(getattr(model, "decode_head", None), segformer.ConvolutionalHead)
            before = trace_step(model, size, graph=graph).model if decoder else copy.deepcopy(after)
    drop_copies(after)
    return before, after


def measure(model: StepModel, size: Size) -> dict[str, Any]:
    """Figures of every graph of a model, before and after."""
    found: dict[str, Any] = {}
    for name in model.graphs(size):
        for when, traced in zip(("before", "after"), trace(model, size, name), strict=True):
            kinds = Counter(node.op_type for node in traced.graph.node)
            found.setdefault(name, {})[when] = {
                "exported nodes": len(traced.graph.node),
                "exported Transposes": kinds["Transpose"],
                **profile(traced),
            }
    return found


def table(graphs: dict[str, Any]) -> str:
    """Markdown."""
    rows = [
        "| model | graph | nodes run | Transposes exported | run | MB of these | MB of all moves |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, entries in graphs.items():
        for graph, figures in entries.items():
            pair = [figures["before"], figures["after"]]
            counts = [[e["nodes"], e["exported Transposes"], moves(e, "Transpose")] for e in pair]
            sizes = [[e["bytes"].get("Transpose", 0), sum(e["bytes"].values())] for e in pair]
            cells = [f"{a} to {b}" for a, b in zip(*counts, strict=True)]
            cells += [f"{a / 1e6:.2f} to {b / 1e6:.2f}" for a, b in zip(*sizes, strict=True)]
            rows.append(f"| {model} | {graph} | {' | '.join(cells)} |")
    return "\n".join(rows)


def moves(figures: dict[str, Any], kind: str) -> int:
    return int(figures["moves"].get(kind, 0))


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--only", nargs="*", choices=MODELS, help="instead of everything")
    arguments = parser.parse_args()
    graphs = {}
    for name in arguments.only or MODELS:
        make, size = MODELS[name]
        graphs[name] = measure(make(), size)
        print(name, flush=True)
    about = {"commit": describe_machine(1)["commit"], "runtime": onnxruntime.__version__}
    text = HEAD.format(**about) + table(graphs) + "\n"
    write_results("copies", {**about, "graphs": graphs}, text, arguments.out)


if __name__ == "__main__":
    main()
