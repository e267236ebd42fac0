"""Engines of TV3S by TensorRT-RTX for several compute capabilities, in every precision.

    make verify-engines

Exports TV3S-B1 with seeded weights in float32 and float16, calibrates an INT8 bundle on a seeded
clip, and builds each with the plugins for each capability, and the float32 lowering once. The
builder needs no GPU; nothing is run. Writes benchmarks/results/engines.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import torch
from measuring import describe_machine, write_results

from streamseg.calibration.calibrating import calibrate
from streamseg.calibration.plan import CalibrationOptions
from streamseg.evaluation.datasets import open_dataset
from streamseg.export import export_bundle
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.mit import MIT_PRESETS
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.parity import moving_pattern

ROOT = Path(__file__).resolve().parents[1]
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
BLOCKS = BlocksConfig(embed_dim=256, d_inner=512, dt_rank=16)

BUILD = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from streamseg.export.engine_build import build_engines
from streamseg.export.engine_options import EngineOptions
from streamseg.runtime.bundle.bundle import read_bundle
bundle, out, library, *capabilities = sys.argv[1:]
options = EngineOptions(
    flavour="tensorrt_rtx", capabilities=tuple(capabilities), native=library != "-",
    library=None if library == "-" else Path(library))
(entry,) = build_engines(read_bundle(bundle), out=Path(out), options=options)
print(json.dumps({"record": asdict(entry.record), **asdict(entry.network),
                  "bytes": entry.path.stat().st_size}))
"""


def make_bundles(folder: Path, size: tuple[int, int], encoder: str) -> dict[str, Path]:
    """The network in every precision."""
    torch.manual_seed(0)
    model = TV3S(TV3SConfig(MIT_PRESETS[encoder], BLOCKS, 19)).eval()
    paths = {precision: folder / precision for precision in ("fp32", "fp16", "int8")}
    for precision in ("fp32", "fp16"):
        export_bundle(model, paths[precision], size=size, precision=precision)
    clip = folder / "clip"
    clip.mkdir()
    for i, image in enumerate(moving_pattern(size, 2)):
        cv2.imwrite(str(clip / f"{i}.png"), image)
    dataset = open_dataset(f"footage:{clip}", "train", labels=False)
    options = CalibrationOptions(clips=1, clip_frames=2)
    calibrate(paths["fp32"], paths["int8"], dataset, options, report=False)
    return paths


def build(rtx: Path, *arguments: str | Path) -> dict[str, Any]:
    """One build in its own process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment["LD_LIBRARY_PATH"] = str(rtx / "link")
    started = time.perf_counter()
    done = subprocess.run(
        [str(rtx / "bin/python"), "-c", BUILD, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def table(content: dict[str, Any]) -> str:
    """The page of the results."""
    lines = [
        f"TV3S {content['encoder']}, {content['size']}, seeded weights, engines by TensorRT-RTX "
        f"{content['engines'][0]['record']['version']}; built without a GPU, not run; "
        f"commit {content['machine']['commit']}.",
        "",
        "| precision | operators | compute | engine, MB | layers | in float16 | plugins | Q/DQ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in content["engines"]:
        record, layers = entry["record"], entry["layers"]
        quantised = layers.get("QUANTIZE", 0) + layers.get("DEQUANTIZE", 0)
        lines.append(
            f"| {record['precision']} | {'plugins' if record['plugins_sha256'] else 'lowering'} | "
            f"{', '.join(record['capabilities'])} | {entry['bytes'] / 1e6:.1f} | "
            f"{sum(layers.values())} | {entry['types'].get('HALF', 0)} | "
            f"{layers.get('PLUGIN_V3', 0)} | {quantised} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Export, build, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rtx", type=Path, default=ROOT / "build/rtx")
    parser.add_argument("--library", type=Path, required=True, help="libstreamseg_tensorrt.so")
    parser.add_argument("--size", default="512x1024")
    parser.add_argument("--encoder", default="mit_b1")
    arguments = parser.parse_args()
    height, width = (int(extent) for extent in arguments.size.split("x"))
    library = arguments.library.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundles = make_bundles(folder, (height, width), arguments.encoder)
        engines = []
        for precision, bundle in bundles.items():
            for capabilities in (*((one,) for one in CAPABILITIES), CAPABILITIES):
                out = folder / "engines" / precision / "-".join(capabilities)
                engines.append(build(arguments.rtx, bundle, out, library, *capabilities))
                print(precision, capabilities, engines[-1]["bytes"], flush=True)
        out = folder / "engines/lowering"
        engines.append(build(arguments.rtx, bundles["fp32"], out, "-", "8.6"))
    content = {
        "machine": describe_machine(1),
        "encoder": arguments.encoder,
        "size": arguments.size,
        "engines": engines,
    }
    write_results("engines", content, table(content))


if __name__ == "__main__":
    main()
