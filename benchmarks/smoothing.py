"""Gain and cost of a smoothed memory around networks without one (docs/memory.md).

    python benchmarks/smoothing.py --camvid ROOT --checkpoint TV3S.pth --set window=10

The settings of the memory are ``PRESETS``, chosen on CamVid's val before test was scored. The
networks are TV3S, reset every frame. Writes benchmarks/results/smoothing.{json,md}. With
``--per-frame CHECKPOINT`` in place of ``--checkpoint``, that network of single frames is scored on
CamVid alone, and results go to benchmarks/results/smoothing_per_frame.{json,md}. With ``--cost-of
mask2former/resnet50`` that network of the catalogue, with seeded weights, is timed only:
benchmarks/results/smoothing_cost.{json,md}.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring import describe_machine, time_interleaved, write_results
from scored_networks import (
    CAMVID_CLIPS,
    CAMVID_SIZE,
    STREET_CLIPS,
    STREET_SIZE,
    STREETS,
    load_camvid,
    load_street,
    make_parser,
)

import streamseg
from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.scores import EvaluationOptions, evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.export import export_bundle, load_checkpoint
from streamseg.export.bundle_smoothing import remember_bundle
from streamseg.export.catalogue import build_entry
from streamseg.export.smoothing import PRESETS
from streamseg.export.step import StepModel
from streamseg.runtime.bundle.bundle import read_bundle
from streamseg.runtime.bundle.state import state_bytes

NONE = "none"
CAMVID_TEST = "CamVid test Seq05VD, one frame a second"
OWN_MEMORY = "The row `none` is TV3S with its own memory; with another one its own is left out."
Gain = dict[str, dict[str, Any]]
ROUNDS = 9


def export_all(model: StepModel, folder: Path, size: tuple[int, int]) -> dict[str, Path]:
    """The network's bundle, and one with each memory."""
    plain = folder / NONE
    export_bundle(model, plain, size=size, logits=True)
    paths = {NONE: plain}
    for name, config in PRESETS.items():
        paths[name] = folder / name
        remember_bundle(plain, paths[name], config)
    return paths


def measure_gain(paths: dict[str, Path], dataset: str, split: str) -> dict[str, Any]:
    """Scores of each bundle; the one without memory is reset before every frame."""
    rows = {}
    for name, path in paths.items():
        with open_segmenter(path, SegmenterOptions(threads=1)) as segmenter:
            history = 1 if name == NONE else None
            found = evaluate(
                segmenter, open_dataset(dataset, split), EvaluationOptions(history=history)
            ).scores
        rows[name] = {"miou": found.miou, "mvc8": found.mvc[8], "mvc16": found.mvc[16]}
        print(dataset.partition(":")[0], split, name, rows[name], flush=True)
    return rows


def measure_cost(paths: dict[str, Path]) -> dict[str, Any]:
    """Nodes, bytes of state and time of a step on one thread, interleaved."""
    streams = {name: streamseg.open(path, threads=1) for name, path in paths.items()}
    spec = streams[NONE].manifest.frame
    frame = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    times = time_interleaved(
        {name: lambda s=stream: s.step(frame) for name, stream in streams.items()}, rounds=ROUNDS
    )
    rows = {}
    for name, stream in streams.items():
        (content,) = read_bundle(paths[name]).graphs.values()
        rows[name] = {
            "nodes": count_nodes(content),
            "state_bytes": state_bytes(stream.manifest.state),
            **times[name],
        }
        stream.close()
    return {"size": [spec.height, spec.width], "rows": rows}


def count_nodes(content: bytes) -> int:
    """Nodes of a graph, functions not counted."""
    import onnx

    return len(onnx.load_from_string(content).graph.node)


def format_tables(result: dict[str, Any]) -> str:
    """Gain, then cost."""
    machine = result["machine"]
    lines = [
        f"{result['network']}, and with a memory. {'Percent; ' if result['gain'] else ''}"
        f"float32 bundles, `--backend auto`; {machine['processor']}, commit {machine['commit']}.",
    ]
    if result["gain"]:
        lines += ["", "| clips | memory | mIoU | mVC8 | mVC16 |", "|---|---|---|---|---|"]
    for clips, rows in result["gain"].items():
        for name, row in rows.items():
            figures = " | ".join(f"{100 * row[key]:.2f}" for key in ("miou", "mvc8", "mvc16"))
            lines.append(f"| {clips} | {name} | {figures} |")
    lines += [
        "",
        f"Cost of a step on one thread, medians of interleaved rounds. {result['none']}".rstrip(),
        "",
        "| network | memory | nodes | state bytes | ms |",
        "|---|---|---|---|---|",
    ]
    for network, cost in result["cost"].items():
        height, width = cost["size"]
        for name, row in cost["rows"].items():
            lines.append(
                f"| {network}, {height}x{width} | {name} | {row['nodes']} | "
                f"{row['state_bytes']:,} | {row['median_ms']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def measure_camvid(model: StepModel, folder: Path, dataset: str) -> tuple[Gain, dict[str, Any]]:
    """Gain on CamVid's val and test, and cost."""
    paths = export_all(model, folder, CAMVID_SIZE)
    gain = {
        CAMVID_CLIPS: measure_gain(paths, dataset, "val"),
        CAMVID_TEST: measure_gain(paths, dataset, "test"),
    }
    return gain, measure_cost(paths)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--per-frame", type=Path, help="checkpoint of a network without state")
    parser.add_argument("--cost-of", metavar="NAME", help="network of the catalogue to time only")
    arguments = parser.parse_args()
    gain: Gain = {}
    cost = {}
    per_frame = arguments.per_frame is not None
    dataset = f"camvid:{arguments.camvid}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.cost_of is not None:
            paths = export_all(build_entry(arguments.cost_of), folder / "cost", CAMVID_SIZE)
            cost[arguments.cost_of] = measure_cost(paths)
        elif per_frame:
            model = load_checkpoint(arguments.per_frame)
            gain, cost["SegFormer"] = measure_camvid(model, folder / "camvid", dataset)
        else:
            street = export_all(load_street(), folder / "street", STREET_SIZE)
            gain[STREET_CLIPS] = measure_gain(street, STREETS, "val")
            cost["street sample"] = measure_cost(street)
            if arguments.camvid is not None:
                model = load_camvid(arguments)
                found, cost["CamVid network"] = measure_camvid(model, folder / "camvid", dataset)
                gain |= found
    own_memory = not per_frame and arguments.cost_of is None
    network = "SegFormer" if per_frame else "TV3S reset every frame"
    result = {
        "machine": describe_machine(1),
        "network": arguments.cost_of or network,
        "none": OWN_MEMORY if own_memory else "",
        "streets": STREETS,
        "settings": {name: vars(config) for name, config in PRESETS.items()},
        "gain": gain,
        "cost": cost,
    }
    kind = "_cost" if arguments.cost_of is not None else "_per_frame" * per_frame
    write_results(f"smoothing{kind}", result, format_tables(result))


if __name__ == "__main__":
    main()
