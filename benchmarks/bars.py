"""What each way to run a bundle on the CPU gains over ONNX Runtime in float32, interleaved.

python benchmarks/bars.py --bundles DIR      # keeps the bundles there and reuses them
python benchmarks/bars.py --bundles DIR --prepare    # makes the bundles and measures nothing
python benchmarks/bars.py --bundles DIR --only street    # measures that work's rows again

Every peer runs in its own process, which holds only the runtime. The peers take turns, so other
load on the machine affects all of them equally. Speed is measured on seeded weights; agreement,
where ``--checkpoint`` and ``--camvid`` are given, on a network trained on CamVid, the test images
as one stream:

python benchmarks/bars.py --bundles DIR --checkpoint TV3S.pth --set window=10 --camvid ROOT

The unit may be an older streamseg's: ``--unit-source`` is the folder that holds its package, with
the native library built, and ``--unit-bundles`` the float32 bundles that it exported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import cv2
import numpy as np
from measuring import RESULTS, describe_head, describe_machine, summarise, write_results
from peaks import share_of_peak
from stepping import Peer

import streamseg
from streamseg.errors import ExportError

SIZE, FAMILY_SIZE, STREET_SIZE, CAMVID_SIZE = (512, 1024), (480, 864), (256, 512), (352, 480)
ORT = {"backend": "onnxruntime", "native": True}
OPENVINO = {"backend": "openvino", "native": True}
UNIT = "ONNX Runtime, float32"
# Precision of the bundle and how it is opened, by the name of the peer.
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    UNIT: ("fp32", ORT),
    "ONNX Runtime, int8 layers": ("int8-dynamic", ORT),
    "ONNX Runtime, INT8 encoder, int8 layers": ("int8", ORT),
    "OpenVINO, float32": ("fp32", {**OPENVINO, "precision": "fp32"}),
    "OpenVINO, lowering, float32": ("fp32", {**OPENVINO, "precision": "fp32", "native": False}),
    "OpenVINO, float32, int8 layers": ("int8-dynamic", {**OPENVINO, "precision": "fp32"}),
    "OpenVINO, float32, INT8 encoder, int8 layers": ("int8", {**OPENVINO, "precision": "fp32"}),
    "OpenVINO, bfloat16": ("fp32", {**OPENVINO, "precision": "bf16"}),
    "OpenVINO, bfloat16, bf16 layers": ("bf16", {**OPENVINO, "precision": "bf16"}),
    "OpenVINO, bfloat16, int8 layers": ("int8-dynamic", {**OPENVINO, "precision": "bf16"}),
    "OpenVINO, bfloat16, INT8 encoder, int8 layers": ("int8", {**OPENVINO, "precision": "bf16"}),
}
FLOAT_PATHS = (UNIT, "OpenVINO, float32", "OpenVINO, bfloat16")
# Networks without temporal layers.
QUANTISED = {
    "OpenVINO, float32, int8 attention": ("int8-dynamic", {**OPENVINO, "precision": "fp32"}),
    "ONNX Runtime, INT8": ("int8", ORT),
    "OpenVINO, float32, INT8": ("int8", {**OPENVINO, "precision": "fp32"}),
}
LOWERING = "ONNX Runtime, lowering, float32"
OPENINGS = {**PATHS, **QUANTISED, LOWERING: ("fp32", {**ORT, "native": False})}
# Threads of ONNX Runtime spin for a while after a step and would slow the next peer down.
SETTLE_S = 0.05
FAMILIES = (
    *("segformer/mit_b1", "cffm/mit_b1", "cffm++/mit_b1", "mrcfa/mit_b1"),
    *("upernet/swin_t", "mask2former/resnet50", "mpvss/resnet50"),
)
# What a path multiplies in, for the share of the peak.
_PEAK = {"fp32": "fp32", "bf16": "bf16", "int8-dynamic": "int8", "int8": "int8"}


@dataclass(frozen=True)
class Work:
    """A network at a size: one row or block of the table."""

    name: str
    size: tuple[int, int]
    paths: tuple[str, ...]


def works() -> list[Work]:
    every = tuple(PATHS)
    return [
        Work("tv3s-b1", SIZE, every),
        Work("street", STREET_SIZE, every),
        *(Work(name, FAMILY_SIZE, (*FLOAT_PATHS, *QUANTISED)) for name in FAMILIES),
    ]


def bundle_of(work: Work, path: str, folder: Path) -> Path:
    return folder / f"{work.name.replace('/', '-')}-{OPENINGS[path][0]}"


def prepare(work: Work, folder: Path) -> None:
    """Export the missing bundles; their parity is not measured here.

    What a network does not export to is remembered in ``BUNDLE.refused``, with the reason.
    """
    from streamseg.export import bundles, load_checkpoint

    for precision in dict.fromkeys(OPENINGS[path][0] for path in work.paths):
        target = folder / f"{work.name.replace('/', '-')}-{precision}"
        refused = target.with_name(target.name + ".refused")
        if refused.exists():
            print(f"{target.name}: {refused.read_text().strip()} (of {refused})", flush=True)
        if refused.exists() or target.exists():
            continue
        print(f"exporting {target.name}", flush=True)
        if precision == "int8":
            source = target.with_name(target.name + "-dynamic")
            if not source.exists():
                source = target.with_name(target.name.removesuffix("int8") + "fp32")
            _calibrate(source, target, work.size)
            continue
        if work.name == "street":
            model = load_checkpoint("samples/street/street.safetensors")
        else:
            model = build_network(work.name)
        try:
            with mock.patch.object(bundles, "measure_parity", return_value={}):
                bundles.export_bundle(model, target, size=work.size, precision=precision)
        except ExportError as error:  # nothing to fuse
            refused.write_text(f"{error}\n")
            print(f"{target.name}: {error}", flush=True)
        else:
            _fill_given(target)


def _fill_given(bundle: Path) -> None:
    """Noise for state that only a user has, such as prototypes: calibration needs some."""
    from streamseg.evaluation.clustering import store_given
    from streamseg.runtime.bundle.bundle import read_bundle

    rng = np.random.default_rng(0)
    for spec in read_bundle(bundle).manifest.state:
        if spec.kind == "given":
            store_given(bundle, spec.name, rng.standard_normal(spec.shape).astype(spec.dtype))


def build_network(name: str) -> Any:
    from frame import build_model

    from streamseg.export.catalogue import build_entry

    if name == "tv3s-b1":
        return build_model("mit_b1", embed_dim=256, window=20)
    return build_entry(name)


def _calibrate(source: Path, target: Path, size: tuple[int, int]) -> None:
    """Quantise the layers that are not fused, on drifting noise."""
    from streamseg.calibration.calibrating import CalibrationOptions, calibrate
    from streamseg.evaluation.datasets import open_dataset
    from streamseg.export.parity import moving_pattern

    with tempfile.TemporaryDirectory() as scratch:
        clip = Path(scratch) / "clip"
        clip.mkdir()
        for index, image in enumerate(moving_pattern(size, 4)):
            cv2.imwrite(str(clip / f"{index}.png"), image)
        dataset = open_dataset(f"footage:{scratch}", "train", labels=False)
        options = CalibrationOptions(clips=1, clip_frames=4)
        calibrate(source, target, dataset, options, report=False)


@dataclass(frozen=True)
class Unit:
    """An older streamseg whose float32 in ONNX Runtime is the unit.

    Attributes:
        name: of its commit.
        source: folder that holds its package ``streamseg``.
        bundles: float32 bundles that it exported, named like ours; networks that it lacks are
            compared with this commit's.
    """

    name: str
    source: Path
    bundles: Path

    def has(self, work: Work) -> bool:
        """Whether it exported the network."""
        return bundle_of(work, UNIT, self.bundles).exists()


@contextmanager
def peers_of(
    work: Work, folder: Path, threads: int, unit: Unit | None
) -> Iterator[dict[str, Peer]]:
    opened: dict[str, Peer] = {}
    try:
        for path in work.paths:
            try:
                opened[path] = _open_peer(work, path, folder, threads, unit)
            except RuntimeError as error:
                print(f"{work.name}, {path}: {error}", flush=True)
        yield opened
    finally:
        for peer in opened.values():
            peer.close()


def _open_peer(work: Work, path: str, folder: Path, threads: int, unit: Unit | None) -> Peer:
    if unit is not None and path == UNIT and unit.has(work):
        bundle = bundle_of(work, path, unit.bundles)
        opening = {"bundle": str(bundle), "threads": threads, "native": True}
        return Peer(opening, source=unit.source)
    bundle = bundle_of(work, path, folder)
    if not bundle.exists():
        raise RuntimeError("there is no bundle for it")
    opening = {"bundle": str(bundle), "threads": threads, "reuse": True, **OPENINGS[path][1]}
    return Peer(opening)


def take_turns(peers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every peer's steps, made in turn: other load affects all equally."""
    samples: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, step in peers.items():
            time.sleep(SETTLE_S)
            samples[name].append(step())
    return samples


def measure_work(
    work: Work, folder: Path, threads: int, rounds: int, unit: Unit | None
) -> dict[str, Any]:
    """Medians of every path, and the median over rounds of the quotient with the unit."""
    with peers_of(work, folder, threads, unit) as peers:
        samples = take_turns({name: peer.step for name, peer in peers.items()}, rounds)
        base = samples[UNIT]
        return {
            name: {
                **summarise(values),
                "times": median(a / b for a, b in zip(base, values, strict=True)),
                "runs_on": peers[name].description,
            }
            for name, values in samples.items()
        }


def measure_start(bundle: Path, threads: int, rounds: int) -> dict[str, float]:
    """Seconds from the start of a process to the first label, medians."""
    program = (
        "import sys, json, numpy as np, streamseg; given = json.loads(sys.argv[1]);"
        "stream = streamseg.open(given.pop('bundle'), **given); size = stream.manifest.frame;"
        "stream.step(np.zeros((size.height, size.width, 3), np.uint8))"
    )
    taken: dict[str, list[float]] = {name: [] for name in FLOAT_PATHS}
    for _ in range(rounds):
        for name in taken:
            opening = {"bundle": str(bundle), "threads": threads, **PATHS[name][1]}
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", program, json.dumps(opening)], check=True)
            taken[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in taken.items()}


def measure_agreement(
    checkpoint: Path, settings: dict[str, str], camvid: Path, folder: Path, threads: int
) -> dict[str, Any]:
    """Labels equal to the unit's, and mIoU, of every path over the test images as one stream."""
    from streamseg.export import bundles, load_checkpoint

    network = load_checkpoint(str(checkpoint), settings=settings)
    for precision in ("fp32", "bf16", "int8-dynamic"):
        target = folder / f"camvid-{precision}"
        if not target.exists():
            with mock.patch.object(bundles, "measure_parity", return_value={}):
                bundles.export_bundle(network, target, size=CAMVID_SIZE, precision=precision)
    if not (folder / "camvid-int8").exists():
        calibrate_on(camvid / "train", folder / "camvid-int8-dynamic", folder / "camvid-int8")
    pairs = [
        (cv2.imread(str(path)), cv2.imread(str(camvid / "testannot" / f"{path.stem}.png"), -1))
        for path in sorted((camvid / "test").iterdir())
    ]
    wanted: list[Any] = []
    found = {}
    for name, (precision, opening) in PATHS.items():
        confusion = np.zeros((network.num_classes,) * 2, np.int64)
        equal = []
        with streamseg.open(folder / f"camvid-{precision}", threads=threads, **opening) as stream:
            for index, (picture, truth) in enumerate(pairs):
                labels = stream.step(np.ascontiguousarray(picture[:, :, ::-1])).labels
                if name == UNIT:
                    wanted.append(labels)
                equal.append(float((labels == wanted[index]).mean()))
                _add_pixels(confusion, labels, truth)
        found[name] = {
            "frames": len(pairs),
            "labels_equal": float(np.mean(equal)),
            "worst_frame": min(equal),
            "miou": _mean_iou(confusion),
        }
    return found


def calibrate_on(images: Path, source: Path, target: Path) -> None:
    from streamseg.calibration.calibrating import CalibrationOptions, calibrate
    from streamseg.evaluation.datasets import open_dataset

    with tempfile.TemporaryDirectory() as scratch:
        clip = Path(scratch) / "clip"
        clip.mkdir()
        for index, path in enumerate(sorted(images.iterdir())[:32]):
            (clip / f"{index:04d}.png").symlink_to(path.resolve())
        dataset = open_dataset(f"footage:{scratch}", "train", labels=False)
        calibrate(
            source, target, dataset, CalibrationOptions(clips=1, clip_frames=32), report=False
        )


def _add_pixels(confusion: Any, labels: Any, truth: Any) -> None:
    """Count pixels by true and found class; classes past the last are void."""
    classes = len(confusion)
    full = cv2.resize(labels, truth.shape[::-1], interpolation=cv2.INTER_NEAREST)
    known = truth < classes
    pairs = truth[known].astype(np.int64) * classes + full[known]
    confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _mean_iou(confusion: Any) -> float:
    hits = np.diag(confusion)
    total = confusion.sum(0) + confusion.sum(1) - hits
    return float((hits[total > 0] / total[total > 0]).mean())


def gmacs_of(work: Work) -> float:
    """Multiply-adds of the most expensive graph of a network."""
    from streamseg.export import load_checkpoint
    from streamseg.export.size_advice import cost_of

    if work.name == "street":
        return cost_of(load_checkpoint("samples/street/street.safetensors"), work.size).gmacs
    return cost_of(build_network(work.name), work.size).gmacs


def is_even(bundle: Path) -> bool:
    """Whether every frame of a long run costs the same: no graph runs only every few frames."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return not any("every" in turn for turn in manifest["schedule"])


def format_table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    units = defaultdict(list)
    commits = defaultdict(list)
    for entry in result["works"]:
        units[entry["unit"] or "this commit"].append(entry["name"])
        if entry.get("commit", machine["commit"]) != machine["commit"]:
            commits[entry["commit"]].append(entry["name"])
    lines = [f"{describe_head(machine)}. Unit: {UNIT}, with the native operators."]
    lines += [f"The unit is of {unit} for {', '.join(names)}." for unit, names in units.items()]
    lines += [
        f"Measured later, at {commit}: {', '.join(names)}." for commit, names in commits.items()
    ]
    lines.append("")
    lines += ["| work | path | median ms | p95 ms | times the unit | share of peak |"]
    lines += ["|---|---|---|---|---|---|"]
    for entry in result["works"]:
        for name, times in entry["paths"].items():
            peak = machine["peak_gops"].get(peak_name(name, times["runs_on"]))
            peak = peak if entry["even"] else None
            share = "" if peak is None else share_of_peak(entry["gmacs"], times["median_ms"], peak)
            shown = f"{share:.0%}" if share else ""
            lines.append(
                f"| {entry['name']} {entry['size'][0]}x{entry['size'][1]} | {name} | "
                f"{times['median_ms']:.1f} | {times['p95_ms']:.1f} | {times['times']:.2f} | "
                f"{shown} |"
            )
    lines += ["", "| start to first label, street sample | seconds |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in result["start_s"].items()]
    if result.get("agreement"):
        lines += ["", "| CamVid test, one stream, 352x480 | labels as the unit | worst | mIoU |"]
        lines += ["|---|---|---|---|"]
        for name, entry in result["agreement"].items():
            lines.append(
                f"| {name} | {entry['labels_equal']:.4%} | {entry['worst_frame']:.4%} | "
                f"{entry['miou']:.4f} |"
            )
    return "\n".join(lines) + "\n"


def peak_name(path: str, runs_on: str) -> str:
    """The precision that most of a path's products run in."""
    precision = _PEAK[OPENINGS[path][0]]
    return "bf16" if precision == "fp32" and "bf16" in runs_on else precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundles", type=Path, help="keep the bundles here and reuse them")
    parser.add_argument("--prepare", action="store_true", help="make the bundles and end")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only", default="", help="works whose name contains this; others keep their rows"
    )
    parser.add_argument("--checkpoint", type=Path, help="a network trained on CamVid")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--camvid", type=Path, help="folder of CamVid with test and testannot")
    parser.add_argument("--unit-source", type=Path, help="package folder of the unit's streamseg")
    parser.add_argument("--unit-bundles", type=Path, help="bundles that it exported")
    parser.add_argument("--unit-name", default="", help="the unit's commit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.bundles or Path(scratch)
        chosen = [work for work in works() if options.only in work.name]
        for work in chosen:
            prepare(work, folder)
        if options.prepare:
            return
        measure_all(options, chosen, folder)


def measure_all(options: argparse.Namespace, chosen: list[Work], folder: Path) -> None:
    result: dict[str, Any] = {"machine": describe_machine(options.threads), "works": []}
    unit = None
    if options.unit_source is not None:
        unit = Unit(options.unit_name, options.unit_source, options.unit_bundles)
    for work in chosen:
        print(f"measuring {work.name}", flush=True)
        paths = measure_work(work, folder, options.threads, options.rounds, unit)
        entry = {"name": work.name, "size": work.size, "gmacs": gmacs_of(work), "paths": paths}
        entry["even"] = is_even(bundle_of(work, UNIT, folder))
        entry["unit"] = unit.name if unit is not None and unit.has(work) else ""
        entry["commit"] = result["machine"]["commit"]
        result["works"].append(entry)
    street = bundle_of(works()[1], UNIT, folder)
    timed = street.exists() and not options.only
    result["start_s"] = measure_start(street, options.threads, 3) if timed else {}
    if options.checkpoint is not None and options.camvid is not None:
        print("measuring agreement", flush=True)
        result["agreement"] = measure_agreement(
            options.checkpoint,
            dict(text.split("=", 1) for text in options.set),
            options.camvid,
            folder,
            options.threads,
        )
    if options.only:
        result = replace_rows(json.loads((RESULTS / "bars.json").read_text()), result)
    write_results("bars", result, format_table(result))


def replace_rows(before: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Earlier results with the works that were measured again in their places.

    Raises:
        ValueError: another machine or number of threads.
    """
    for name in ("processor", "model", "threads"):
        if before["machine"].get(name) != result["machine"].get(name):
            raise ValueError(f"bars.json is of another {name}: measure every work again")
    found = {entry["name"]: entry for entry in result["works"]}
    rows = [found.pop(entry["name"], entry) for entry in before["works"]]
    return before | {"works": [*rows, *found.values()]}


if __name__ == "__main__":
    main()
