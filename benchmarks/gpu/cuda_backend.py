"""``backend="cuda"`` against the CPU backend, for all bundles of a folder; exits 1 on a failure.

    python benchmarks/gpu/cuda_backend.py build/gpu_bundles --out out.json
    python benchmarks/gpu/cuda_backend.py build/gpu_bundles --out out.json --rehearse

For each bundle, over three periods of its schedule: labels and state of host frames, one by one and
two in progress, and of frames of torch and CuPy in device memory; the same clip again after a reset
and after a restore, bit for bit; and the messages of cuDNN on standard error. Then times of
``Stream.step``, of two steps in progress and of ``step_device``; of float16 bundles also with
``use_tf32=0``, which disables tensor cores for float16 convolutions. ``--rehearse`` uses the CPU
backend instead of the GPU and times nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import streamseg
from streamseg.runtime.backends import onnxruntime_cuda
from streamseg.runtime.backends.interface import plan_step
from streamseg.runtime.stream import Stream

Frames = list[NDArray[np.uint8]]
# Share of labels that agree in the worst frame, and state error by the state's largest value.
BARS = {"fp32": (0.9999, 1e-5), "fp16": (0.997, 1e-2)}
MOST_FRAMES = 60
CALLS = 60


def period_of(stream: Stream) -> int:
    """Steps until the last plan that is new, and one more of its kind."""
    seen: dict[Any, int] = {}
    for step in range(256):
        seen.setdefault(plan_step(stream.manifest, step), step)
    return max(seen.values()) + 1


def clip(stream: Stream, count: int) -> Frames:
    """Coarse noise that drifts, seeded: every frame differs from the one before it."""
    height, width = stream.manifest.frame.height, stream.manifest.frame.width
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    canvas = coarse.repeat(16, axis=0).repeat(16, axis=1)
    shifted = (np.roll(canvas, (3 * t, 5 * t), axis=(0, 1)) for t in range(count))
    return [np.ascontiguousarray(image[:height, :width]) for image in shifted]


def give_values(*streams: Stream) -> None:
    """The same seeded values for every state that a caller gives."""
    random = np.random.default_rng(1)
    for spec in streams[0].manifest.state:
        if spec.kind == "given":
            content = random.normal(size=spec.shape).astype(spec.dtype)
            for stream in streams:
                stream.give(spec.name, content)


def one_by_one(stream: Stream, images: Frames) -> Iterator[NDArray[np.uint8]]:
    for image in images:
        yield stream.step(image).labels.copy()


def two_under_way(stream: Stream, images: Frames) -> Iterator[NDArray[np.uint8]]:
    for result in stream.steps_through(images):
        yield result.labels.copy()


def of_torch(stream: Stream, images: Frames) -> Iterator[NDArray[np.uint8]]:
    """Frames made on a torch stream, passed by DLPack; labels are read on that stream."""
    import torch

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for image in images:
            frame = torch.from_numpy(image).pin_memory().cuda(non_blocking=True)
            labels = torch.from_dlpack(stream.step_device(frame, stream=side).labels)
            yield labels.cpu().numpy().copy()


def of_torch_unnamed(stream: Stream, images: Frames) -> Iterator[NDArray[np.uint8]]:
    """The same without saying on which stream, which costs a wait for the device."""
    import torch

    with torch.cuda.stream(torch.cuda.Stream()):
        for image in images:
            frame = torch.from_numpy(image).pin_memory().cuda(non_blocking=True)
            yield torch.from_dlpack(stream.step_device(frame).labels).cpu().numpy().copy()


def of_cupy(stream: Stream, images: Frames) -> Iterator[NDArray[np.uint8]]:
    """One CuPy buffer, overwritten for every frame on its stream, which is passed to the step."""
    import cupy

    side = cupy.cuda.Stream(non_blocking=True)
    with side:
        frame = cupy.empty(images[0].shape, cupy.uint8)
        for image in images:
            frame.set(image, stream=side)
            labels = cupy.from_dlpack(stream.step_device(frame, stream=side).labels)
            yield cupy.asnumpy(labels, stream=side)


@contextlib.contextmanager
def lines_of_cudnn() -> Iterator[list[str]]:
    """Collect lines about cuDNN that libraries write to standard error; still prints them."""
    found: list[str] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            text = caught.read().decode(errors="replace")
            sys.stderr.write(text)
            found += [line for line in text.splitlines() if "cudnn" in line.lower()]


Play = Callable[[Stream, Frames], Iterator[NDArray[np.uint8]]]


def compare(gpu: Stream, play: Play, images: Frames, want: list[Any], state: Any) -> dict[str, Any]:
    gpu.reset()
    got = list(play(gpu, images))
    agreed = [float((a == b).mean()) for a, b in zip(got, want, strict=True)]
    return {"labels_min": min(agreed), "state": state_error(gpu.snapshot().tensors, state)}


def state_error(ours: Any, theirs: Any) -> float:
    errors = [0.0]
    for name, want in theirs.items():
        wide = want.astype(np.float64)
        difference = np.abs(ours[name].astype(np.float64) - wide).max()
        errors.append(float(difference / max(np.abs(wide).max(), 1e-12)))
    return max(errors)


def replays(gpu: Stream, images: Frames) -> dict[str, bool]:
    """Whether the clip gives the same bits again after a reset, and from a snapshot."""
    gpu.reset()
    middle = len(images) // 2
    first = list(one_by_one(gpu, images[:middle]))
    saved = gpu.snapshot()
    rest = list(one_by_one(gpu, images[middle:]))
    gpu.reset()
    again = list(one_by_one(gpu, images))
    gpu.restore(saved)
    restored = list(one_by_one(gpu, images[middle:]))
    return {
        "replay_identical": all(map(np.array_equal, again, first + rest)),
        "restore_identical": all(map(np.array_equal, restored, rest)),
    }


def check(path: Path, backend: str, device: bool) -> dict[str, Any]:
    with (
        streamseg.open(path, backend=backend) as gpu,
        streamseg.open(path, backend="onnxruntime") as cpu,
    ):
        give_values(gpu, cpu)
        images = clip(gpu, min(3 * period_of(gpu), MOST_FRAMES))
        want = list(one_by_one(cpu, images))
        state = cpu.snapshot().tensors
        plays: dict[str, Play] = {"one by one": one_by_one, "two under way": two_under_way}
        if device:
            plays |= {
                "torch frames": of_torch,
                "torch frames, no stream named": of_torch_unnamed,
                "CuPy frames": of_cupy,
            }
        found: dict[str, Any] = {"execution": gpu.execution, "frames": len(images)}
        for name, play in plays.items():
            try:
                found[name] = compare(gpu, play, images, want, state)
            except ImportError as error:
                found[name] = {"not_run": str(error)}
        return found | replays(gpu, images)


def check_quietly(path: Path, backend: str, device: bool) -> dict[str, Any]:
    """``check``, and the lines of cuDNN."""
    with lines_of_cudnn() as lines:
        entry = check(path, backend, device)
    return entry | {"lines of cuDNN": lines}


def is_small(path: Path) -> bool:
    return path.name.startswith("small-")


def milliseconds(play: Play, stream: Stream, images: Frames) -> float:
    """Median of five runs over the clip, by frame."""
    runs = []
    for _ in range(6):
        begin = time.perf_counter()
        for _labels in play(stream, images):
            pass
        runs.append((time.perf_counter() - begin) * 1000 / len(images))
    return statistics.median(runs[1:])


def times(path: Path, backend: str) -> dict[str, Any]:
    found: dict[str, Any] = times_of_plays(path, backend)
    if path.name.endswith("fp16"):
        other = onnxruntime_cuda.OnnxRuntimeCudaExecutable
        with (
            mock.patch.object(other, "_multiplies_float32", new=True),
            lines_of_cudnn() as lines,
            streamseg.open(path, backend=backend) as stream,
        ):
            figure = milliseconds(one_by_one, stream, clip(stream, CALLS))
        found["with use_tf32=0"] = {"Stream.step": figure, "lines of cuDNN": lines}
    return found


def times_of_plays(path: Path, backend: str) -> dict[str, float]:
    with streamseg.open(path, backend=backend) as stream:
        images = clip(stream, CALLS)
        found = {
            "Stream.step": milliseconds(one_by_one, stream, images),
            "two under way": milliseconds(two_under_way, stream, images),
        }
        with contextlib.suppress(ImportError):
            found["step_device, torch"] = milliseconds(of_torch, stream, images)
            found["step_device, no stream named"] = milliseconds(of_torch_unnamed, stream, images)
        return found


def misses(name: str, entry: dict[str, Any]) -> list[str]:
    """The results that miss their limits."""
    labels, state = BARS["fp16" if name.endswith("fp16") else "fp32"]
    found = []
    for part, figures in entry.items():
        if isinstance(figures, dict) and "labels_min" in figures:
            if figures["labels_min"] < labels:
                found.append(f"{name}, {part}: labels {figures['labels_min']:.5f} < {labels}")
            if figures["state"] > state:
                found.append(f"{name}, {part}: state {figures['state']:.2e} > {state}")
        if part.endswith("identical") and not figures:
            found.append(f"{name}: not {part}")
        if part == "lines of cuDNN" and figures:
            found.append(f"{name}: cuDNN wrote {len(figures)} lines, the first: {figures[0]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    faulthandler.enable(os.fdopen(os.dup(2), "w"))  # 2 is caught at times
    backend = "onnxruntime" if arguments.rehearse else "cuda"
    found: dict[str, Any] = {"rehearsal": arguments.rehearse, "parity": {}, "milliseconds": {}}
    missed: list[str] = found.setdefault("missed", [])
    paths = sorted(path for path in arguments.bundles.iterdir() if path.is_dir())
    for path in sorted(paths, key=is_small):  # the timed ones first
        parts: dict[str, Callable[[Path], dict[str, Any]]] = {
            "parity": lambda path: check_quietly(path, backend, not arguments.rehearse)
        }
        if not arguments.rehearse and not is_small(path):
            parts["milliseconds"] = lambda path: times(path, backend)
        for part, measure in parts.items():
            try:
                found[part][path.name] = entry = measure(path)
                missed += misses(path.name, entry) if part == "parity" else []
            except Exception as error:  # one bundle's failure must not cost the others' results
                traceback.print_exc()
                found[part][path.name] = {"failed": f"{type(error).__name__}: {error}"}
                missed.append(f"{path.name}: {type(error).__name__}: {error}")
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({"bundles": len(paths), "missed": missed}, indent=1))
    return 1 if missed or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
