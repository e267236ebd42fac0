r"""The cost of bf16 and int8 layers: labels, logits and state against float32 over real video.

    python benchmarks/layer_precision.py CHECKPOINT --set window=10 --clip VIDEO --camvid ROOT

Plays each clip, looped with the state kept, through ONNX Runtime in float32 and, beside it, through
every other path; then scores every path on CamVid: mIoU on the test split, and consistency on the
dense validation run. The INT8 encoder is calibrated on the training split.
Writes benchmarks/results/layer_precision.{json,md}.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from bars import calibrate_on
from measuring import describe_head, describe_machine, write_results
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
    "OpenVINO, float32, int8 layers": ("int8-dynamic", OPENVINO),
    "OpenVINO, float32, INT8 encoder, int8 layers": ("int8", OPENVINO),
    "OpenVINO, bfloat16": ("fp32", BFLOAT16),
    "OpenVINO, bfloat16, bf16 layers": ("bf16", BFLOAT16),
}


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
    calibrate_on(arguments.camvid / "train", folder / "int8-dynamic", folder / "int8")


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
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--size", default="352x480")
    parser.add_argument("--clip", type=Path, action="append", required=True)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(arguments, folder)
        others = [path for path in PATHS if path != REFERENCE]
        content: dict[str, Any] = {
            "machine": describe_machine(arguments.threads),
            "checkpoint": arguments.checkpoint.name,
            "size": arguments.size,
            "frames": arguments.frames,
            "drift": [],
            "accuracy": {},
        }
        # Written after every path: all of them take an hour.
        for path in PATHS:
            content["accuracy"][path] = score(path, folder, arguments.camvid, arguments.threads)
            write_results("layer_precision", content, table(content))
        for path in others:
            content["drift"] += [drift(path, folder, clip, arguments) for clip in arguments.clip]
            write_results("layer_precision", content, table(content))


if __name__ == "__main__":
    main()
