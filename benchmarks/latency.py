"""Age of label maps when they are ready, at 25 fps input: slower and faster model, drop and wait.

python benchmarks/latency.py   # 3 minutes; writes benchmarks/results/latency.{json,md}

The source is an H.264 clip played in real time in a loop. A frame is captured when its timestamp is
due, so the time that it waits in the source counts too. It arrives when the source has it, as in
``--max-latency-ms``. The models are TV3S MiT-B0, exported at one size that takes more and one that
takes less than the 40 ms between two frames.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from frame import build_model
from measuring import describe_machine, write_results
from numpy.typing import NDArray

import streamseg
from streamseg.export import export_bundle
from streamseg.export.parity import moving_pattern
from streamseg.runtime.loop.decoding import Decoder, WhenBehind
from streamseg.runtime.loop.latency import LatencyWatch
from streamseg.runtime.loop.times import StageTimes
from streamseg.runtime.sources import SourceOptions, open_source
from streamseg.runtime.stream import Stream

FPS = 25
CLIP_SIZE = (360, 640)
CLIP_FRAMES = 100
SIZES = [(64, 128), (96, 192), (128, 256), (192, 384), (256, 512), (384, 768), (512, 1024)]
FAST_MS, SLOW_MS = 26.0, 55.0  # of the 40 ms between two frames
QUANTILES = (50, 95, 99)


def write_clip(path: Path) -> None:
    """A moving pattern, H.264 with a key frame each second, as a camera sends it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = CLIP_SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": str(FPS), "tune": "zerolatency", "preset": "fast"}
        for picture in moving_pattern(CLIP_SIZE, CLIP_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def step_milliseconds(stream: Stream) -> float:
    """Median of a whole step from a frame of the clip's size, after a warm-up."""
    frame = moving_pattern(CLIP_SIZE, 1)[0]
    samples = []
    for _ in range(25):
        begin = time.perf_counter()
        stream.step(frame)
        samples.append((time.perf_counter() - begin) * 1e3)
    stream.reset()
    return float(np.median(samples[5:]))


def find_models(folder: Path, threads: int) -> dict[str, tuple[Path, tuple[int, int], float]]:
    """Bundle, size and milliseconds of the slowest model that is fast enough, and of a slow one."""
    found: dict[str, tuple[Path, tuple[int, int], float]] = {}
    model = build_model("mit_b0", embed_dim=64, window=8)
    for size in SIZES:
        path = folder / f"{size[0]}x{size[1]}"
        export_bundle(model, path, size=size)
        with streamseg.open(path, threads=threads) as stream:
            milliseconds = step_milliseconds(stream)
        print(f"{size[0]}x{size[1]}: {milliseconds:.1f} ms a step", flush=True)
        if milliseconds <= FAST_MS:
            found["faster"] = path, size, milliseconds
        elif "faster" not in found:
            raise SystemExit(f"no model here steps in {FAST_MS} ms; is it busy? Try: make native")
        if milliseconds >= SLOW_MS:
            found["slower"] = path, size, milliseconds
            return found
    raise SystemExit(f"this machine steps {SIZES[-1]} in under {SLOW_MS} ms; add larger sizes")


def measure(bundle: Path, clip: Path, policy: WhenBehind, *, seconds: float, threads: int) -> Any:
    """Ages in milliseconds over a run, and the number of frames by outcome."""
    from_capture, from_arrival, offsets = [], [], []
    options = SourceOptions(realtime=True, loop=True)
    with streamseg.open(bundle, threads=threads) as stream:
        step_milliseconds(stream)
        with open_source(str(clip), options) as source:
            decoder = Decoder(source, StageTimes(), when_behind=policy)
            watch = LatencyWatch(1 / FPS, source.name)
            begin = time.monotonic()
            decoder.start()
            while time.monotonic() - begin < seconds:
                frame = decoder.wait()
                assert frame is not None
                stream.step(frame.image)
                from_arrival.append(watch.check(frame) * 1e3)
                from_capture.append((time.monotonic() - frame.timestamp) * 1e3)
                offsets.append((frame.received - frame.timestamp) * 1e3)
            elapsed = time.monotonic() - begin
            decoder.halt()
    # The origin of the clock: no frame is returned early, and the first ones are on time.
    ages = np.array(from_capture) - min(offsets)
    return {
        "frames": len(ages),
        "dropped": decoder.dropped,
        "late": watch.late,
        "fps": len(ages) / elapsed,
        "from_capture_ms": quantiles(ages),
        "from_arrival_ms": quantiles(np.array(from_arrival)),
    }


def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """``QUANTILES`` of the values by name."""
    return {str(q): float(np.percentile(values, q)) for q in QUANTILES}


def format_table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    machine = result["machine"]
    lines = [
        f"Labels at {FPS} fps input, {CLIP_SIZE[0]}x{CLIP_SIZE[1]} H.264, "
        f"{result['seconds']:.0f} s each; {machine['processor']}, {machine['threads']} threads, "
        f"commit {machine['commit']}.",
        "",
        "| model | step ms | when behind | fps | dropped | capture to label p50 / p95 / p99 ms | "
        "arrival to label p50 / p95 / p99 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ages = [
            " / ".join(f"{row[key][str(q)]:.0f}" for q in QUANTILES)
            for key in ("from_capture_ms", "from_arrival_ms")
        ]
        share = 100 * row["dropped"] / (row["dropped"] + row["frames"])
        lines.append(
            f"| {row['model']} {row['size'][0]}x{row['size'][1]} | {row['step_ms']:.1f} | "
            f"{row['when_behind']} | {row['fps']:.1f} | {share:.0f} % | {ages[0]} | {ages[1]} |"
        )
    lines += [
        "",
        "With a slower model and `wait` the age grows for as long as the run lasts; with `drop` "
        "it stays bounded: a wait for the step under way, and a step.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip(folder / "clip.mp4")
        models = find_models(folder, arguments.threads)
        for model in ("faster", "slower"):
            bundle, size, milliseconds = models[model]
            for policy in ("drop", "wait"):
                row = measure(
                    bundle,
                    folder / "clip.mp4",
                    policy,
                    seconds=arguments.seconds,
                    threads=arguments.threads,
                )
                head = {"model": model, "size": size, "step_ms": milliseconds}
                rows.append({**head, "when_behind": policy, **row})
    result = {
        "machine": describe_machine(arguments.threads),
        "seconds": arguments.seconds,
        "rows": rows,
    }
    write_results("latency", result, format_table(result))


if __name__ == "__main__":
    main()
