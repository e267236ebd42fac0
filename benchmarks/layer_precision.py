r"""The cost of bf16 and int8 layers: labels, logits and state against float32 over real video.

    python benchmarks/layer_precision.py CHECKPOINT --set window=10 --clip VIDEO --camvid ROOT

Plays each clip, looped with the state kept, through ONNX Runtime in float32 and, beside it, through
every other path; then scores every path on CamVid: mIoU on the test split, and consistency on the
dense validation run. The INT8 encoder is calibrated on the training split.
Writes benchmarks/results/layer_precision.{json,md}. With ``--only`` the rows of other paths stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from bars import calibrate_on
from measuring import RESULTS, describe_commit, describe_head, describe_machine, write_results
from precision import summarise

from streamseg.evaluation.datasets import open_dataset
from streamseg.evaluation.datasets.footage import open_footage
from streamseg.evaluation.drift import ComparisonOptions, compare
from streamseg.evaluation.scores import evaluate
from streamseg.evaluation.segmenter import SegmenterOptions
from streamseg.evaluation.subjects import open_segmenter
from streamseg.export import bundles, load_checkpoint

REFERENCE = "ONNX Runtime, float32"
# Bundle, and how it is opened, by the name of the path.
ORT = {"backend": "onnxruntime", "native": True}
OPENVINO = {"backend": "openvino", "native": True, "precision": "fp32"}
BFLOAT16 = {**OPENVINO, "precision": "bf16"}
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    REFERENCE: ("fp32", ORT),
    "ONNX Runtime, bf16 layers": ("bf16", ORT),
    "ONNX Runtime, int8 layers": ("int8-dynamic", ORT),
    "ONNX Runtime, INT8 encoder, int8 layers": ("int8", ORT),
    "ONNX Runtime, INT8 encoder": ("int8-encoder", ORT),
    "OpenVINO, float32, bf16 layers": ("bf16", OPENVINO),
    "OpenVINO, float32, int8 layers": ("int8-dynamic", OPENVINO),
    "OpenVINO, float32, INT8 encoder, int8 layers": ("int8", OPENVINO),
    "OpenVINO, float32, INT8 encoder": ("int8-encoder", OPENVINO),
    "OpenVINO, bfloat16": ("fp32", BFLOAT16),
    "OpenVINO, bfloat16, bf16 layers": ("bf16", BFLOAT16),
    "OpenVINO, bfloat16, int8 layers": ("int8-dynamic", BFLOAT16),
    "OpenVINO, bfloat16, INT8 encoder, int8 layers": ("int8", BFLOAT16),
}
SETTINGS = ("checkpoint", "size", "frames")


def export(arguments: argparse.Namespace, folder: Path) -> None:
    """All bundles; parity is what this script measures, at greater length."""
    model = load_checkpoint(
        arguments.checkpoint, settings=dict(text.split("=", 1) for text in arguments.set)
    )
    height, width = (int(extent) for extent in arguments.size.split("x"))
    with mock.patch.object(bundles, "measure_parity", return_value={}):
        for precision in ("fp32", "bf16", "int8-dynamic"):
            bundles.export_bundle(
                model, folder / precision, size=(height, width), logits=True, precision=precision
            )
    for source, target in (("int8-dynamic", "int8"), ("fp32", "int8-encoder")):
        calibrate_on(arguments.camvid / "train", folder / source, folder / target)


def options(path: str, threads: int) -> SegmenterOptions:
    return SegmenterOptions(**PATHS[path][1], threads=threads)


def drift(path: str, folder: Path, clip: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A clip through the reference and a path."""
    threads = arguments.threads
    with (
        open_segmenter(folder / PATHS[REFERENCE][0], options(REFERENCE, threads)) as a,
        open_segmenter(folder / PATHS[path][0], options(path, threads)) as b,
    ):
        a.name, b.name = REFERENCE, path
        played = open_footage(clip).clips[0]
        result = compare(a, b, played, ComparisonOptions(frames=arguments.frames))
    return {"path": path, **summarise(clip.name, result)}


def score(path: str, folder: Path, camvid: Path, threads: int) -> dict[str, float]:
    """Accuracy on a drive that training has not seen, consistency on the dense run."""
    found = {}
    for split, names in (("test", ("miou", "pixel_accuracy")), ("val", ("mvc8", "mvc16"))):
        dataset = open_dataset(f"camvid:{camvid}", split)
        with open_segmenter(folder / PATHS[path][0], options(path, threads)) as segmenter:
            scores = evaluate(segmenter, dataset).as_json()
        found.update({name: scores[name] for name in names})
    return found


def table(content: dict[str, Any]) -> str:
    lines = [
        f"{describe_head(content['machine'])}. {content['checkpoint']} at {content['size']}, "
        f"against {REFERENCE}, state carried over {content['frames']} frames; clips are looped.",
        *(f"Of commit {commit}: {paths}." for commit, paths in added_later(content).items()),
        "",
        "| path | clip | labels equal, mean | worst frame | last 100 | logits, max | rms | "
        "state error, worst tensor: median | worst frame | last frame | over the run |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in content["drift"]:
        labels = run["labels_equal"]
        worst = max(run["states"].values(), key=lambda state: state["median"])
        lines.append(
            f"| {run['path']} | {run['clip']} | {labels['mean']:.3%} | {labels['worst']:.3%} | "
            f"{labels['last_100']:.3%} | {run['logits_max']:.2f} | {run['logits_rms']:.4f} | "
            f"{worst['median']:.1e} | {worst['worst']:.1e} | {worst['last']:.1e} | {run['trend']} |"
        )
    lines += [
        "",
        "State errors are relative, |b - a| / |a|, of the tensor with the largest median.",
        "",
        "| path | CamVid test: mIoU, % | pixel accuracy, % | val: mVC8, % | mVC16, % |",
        "|---|---|---|---|---|",
    ]
    for path, entry in content["accuracy"].items():
        cells = (entry[name] for name in ("miou", "pixel_accuracy", "mvc8", "mvc16"))
        lines.append(f"| {path} | {' | '.join(f'{100 * value:.2f}' for value in cells)} |")
    measured = {run["path"] for run in content["drift"]}
    missing = [path for path in PATHS if path not in {REFERENCE, *measured}]
    if missing:
        lines += ["", f"Not measured yet: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def added_later(content: dict[str, Any]) -> dict[str, str]:
    """Paths that were measured at another commit than the head's, by commit."""
    commits = {run["path"]: run["commit"] for run in content["drift"] if "commit" in run}
    return {
        commit: "; ".join(path for path in PATHS if commits.get(path) == commit)
        for commit in dict.fromkeys(commits.values())
        if commit != content["machine"]["commit"]
    }


def start_content(arguments: argparse.Namespace) -> dict[str, Any]:
    """The table to fill: empty, or with ``--only`` the one that exists, of the same settings."""
    settings = (arguments.checkpoint.name, arguments.size, arguments.frames)
    content = dict(zip(SETTINGS, settings, strict=True))
    if not arguments.only:
        return {
            "machine": describe_machine(arguments.threads),
            **content,
            "drift": [],
            "accuracy": {},
        }
    kept: dict[str, Any] = json.loads((RESULTS / "layer_precision.json").read_text())
    found = {name: kept[name] for name in SETTINGS}
    if found != content:
        raise SystemExit(f"layer_precision.json holds {found}, not {content}; run without --only")
    return kept


def in_order(content: dict[str, Any]) -> dict[str, Any]:
    """Rows in the order of ``PATHS``."""
    order = list(PATHS)
    accuracy = content["accuracy"]
    content["drift"].sort(key=lambda run: order.index(run["path"]))
    return {**content, "accuracy": {path: accuracy[path] for path in order if path in accuracy}}


def measure(
    path: str, folder: Path, arguments: argparse.Namespace, content: dict[str, Any]
) -> None:
    """Score a path and play the clips through it; its rows replace those of an earlier run."""
    commit = describe_commit()
    scores = score(path, folder, arguments.camvid, arguments.threads)
    content["accuracy"][path] = {**scores, "commit": commit}
    if path == REFERENCE:
        return
    runs = [{**drift(path, folder, clip, arguments), "commit": commit} for clip in arguments.clip]
    content["drift"] = [run for run in content["drift"] if run["path"] != path] + runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--size", default="352x480")
    parser.add_argument("--clip", type=Path, action="append", required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", action="append", choices=list(PATHS), help="measure these paths")
    arguments = parser.parse_args()
    content = start_content(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(arguments, folder)
        # Written after every path: all of them take two hours.
        for path in arguments.only or PATHS:
            measure(path, folder, arguments, content)
            content = in_order(content)
            write_results("layer_precision", content, table(content))


if __name__ == "__main__":
    main()
