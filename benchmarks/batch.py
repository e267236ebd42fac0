"""`streamseg batch` against a plain loop: cost of the executors, gain of a second worker.

    python benchmarks/batch.py                 # on a quiet machine; about ten minutes on two cores
    python benchmarks/batch.py --rounds 1 --videos 2 --frames 20   # a trial

One thread per worker. Every peer segments the same videos once per round: a plain loop in one
process, processes with one and two workers, Ray with one and two actors. Start-up (interpreters,
cluster, bundle) is measured separately, once. Writes benchmarks/results/batch.{json,md}.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from measuring import describe_machine, write_results

import streamseg
from streamseg.batch.cluster import RayExecutor
from streamseg.batch.executor import Executor
from streamseg.batch.jobs import Batch, BatchPlace
from streamseg.batch.local import LocalExecutor
from streamseg.batch.work import BatchSettings, Task, fingerprint_bundle
from streamseg.batch.worker import Outcome, segment_video
from streamseg.runtime.sinks import SegmentedFrame, VideoSink

SIZE = (136, 320)  # of the model
SCENE = "synthetic:street?seed={seed}&size=256x512&fps=25"


class Limited:
    """An executor of two workers that is given one task at a time."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        """As the executor's."""
        return self._inner.name

    @property
    def free(self) -> int:
        """One while no task runs."""
        return self._inner.free - 1

    def submit(self, task: Task) -> None:
        """As the executor's."""
        self._inner.submit(task)

    def wait(self, seconds: float) -> list[Outcome]:
        """As the executor's."""
        return self._inner.wait(seconds)


def write_bundle(folder: Path) -> Path:
    """The demo's model: TV3S MiT-B0 with narrow blocks."""
    from streamseg.export import export_bundle, load_checkpoint

    weights = Path(__file__).resolve().parents[1] / "samples" / "street" / "street.safetensors"
    export_bundle(load_checkpoint(weights), folder / "street", size=SIZE)
    return folder / "street"


def write_videos(folder: Path, *, videos: int, frames: int) -> None:
    """H.264 files of street scenes."""
    folder.mkdir()
    for seed in range(videos):
        sink = VideoSink(folder / f"{seed}.mp4", 25)
        with streamseg.open_source(SCENE.format(seed=seed)) as scene:
            for frame in scene:
                if frame.index == frames:
                    break
                picture = SegmentedFrame(
                    frame.image, frame.image[..., 0], frame.index, frame.timestamp
                )
                sink.write(picture)
        sink.finish()


class Peers:
    """Everything that is compared, on one set of videos."""

    def __init__(self, folder: Path, bundle: Path, frames: int) -> None:
        self.folder, self.frames = folder, frames
        cv2.setNumThreads(1)  # as in a worker
        fingerprint, self.manifest = fingerprint_bundle(bundle)
        self.settings = BatchSettings(bundle=str(bundle), fingerprint=fingerprint)
        self.stream = streamseg.open(bundle, threads=1)
        self._runs = 0

    def new_folder(self) -> Path:
        """A folder to which nothing was written yet."""
        self._runs += 1
        return self.folder / f"out{self._runs}"

    def loop(self) -> float:
        """Frames a second of a plain loop."""
        out, count = self.new_folder(), 0
        begun = time.perf_counter()
        for video in sorted((self.folder / "videos").iterdir()):
            (out / video.name).mkdir(parents=True)
            task = Task(video.name, str(video), "", "", "")
            with streamseg.open_source(str(video)) as source:
                written, _ = segment_video(
                    self.stream, source, task, out / video.name, self.settings
                )
                count += written
        return count / (time.perf_counter() - begun)

    def batch(self, executor: Any, pattern: str = "*.mp4") -> float:
        """Frames a second of a batch, from listing the files to the last rename."""
        begun = time.perf_counter()
        out = str(self.new_folder())
        place = BatchPlace.below(out, shard=(0, 1), journal=None, segmented=False)
        listed = [str(self.folder / "videos" / pattern)]
        report = Batch(listed, place, self.settings, self.manifest).run(executor)
        if report.failures:
            raise SystemExit(f"failed: {report.failures}")
        return report.frames / (time.perf_counter() - begun)


def start(make: Callable[[], Executor], peers: Peers) -> tuple[Executor, float]:
    """An executor whose two workers have done a video each, and the seconds that it took."""
    begun = time.perf_counter()
    executor = make()
    peers.batch(executor, "[01].mp4")
    return executor, time.perf_counter() - begun


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Frames a second of every peer and round; start-up of each executor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = write_bundle(folder)
        write_videos(folder / "videos", videos=arguments.videos, frames=arguments.frames)
        peers = Peers(folder, bundle, arguments.frames)
        peers.loop()
        local, local_start = start(lambda: LocalExecutor(peers.settings, 2), peers)
        ray, ray_start = start(lambda: RayExecutor(peers.settings, 2), peers)
        calls: dict[str, Callable[[], float]] = {
            "plain loop": peers.loop,
            "processes, 1": lambda: peers.batch(Limited(local)),
            "processes, 2": lambda: peers.batch(local),
            "Ray, 1": lambda: peers.batch(Limited(ray)),
            "Ray, 2": lambda: peers.batch(ray),
        }
        rounds: dict[str, list[float]] = {peer: [] for peer in calls}
        for _ in range(arguments.rounds):
            for peer, call in calls.items():
                rounds[peer].append(call())
        local.close()
        ray.close()
    once = arguments.frames * 2 / statistics.median(rounds["processes, 2"])
    return {
        "model": "TV3S MiT-B0, embed_dim 64, window 2",
        "size": SIZE,
        "videos": arguments.videos,
        "frames": arguments.frames,
        "fps": rounds,
        "median_fps": {peer: statistics.median(values) for peer, values in rounds.items()},
        "start_seconds": {"processes": local_start - once, "Ray": ray_start - once},
    }


def summarise(result: dict[str, Any]) -> dict[str, float]:
    """Overheads and ratios, as medians over rounds: a disturbance affects all peers of a round."""
    fps = result["fps"]

    def median_ratio(upper: str, lower: str) -> float:
        pairs = zip(fps[upper], fps[lower], strict=True)
        return statistics.median(high / low for high, low in pairs)

    return {
        "processes_overhead_percent": 100 * (1 - median_ratio("processes, 1", "plain loop")),
        "ray_overhead_percent": 100 * (1 - median_ratio("Ray, 1", "plain loop")),
        "processes_ratio": median_ratio("processes, 2", "processes, 1"),
        "ray_ratio": median_ratio("Ray, 2", "Ray, 1"),
    }


def format_table(result: dict[str, Any]) -> str:
    """A row a peer, then what the issue asks."""
    machine, summary = result["machine"], result["summary"]
    rows = [
        f"| {peer} | {median:.2f} | {min(result['fps'][peer]):.2f} to "
        f"{max(result['fps'][peer]):.2f} |"
        for peer, median in result["median_fps"].items()
    ]
    starts = result["start_seconds"]
    overheads = [summary[f"{name}_overhead_percent"] for name in ("processes", "ray")]
    lines = [
        f"{result['videos']} videos of {result['frames']} frames 256x512; {result['model']} at "
        f"{SIZE[0]}x{SIZE[1]}, one thread a worker; label maps and tables written. "
        f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit']}, "
        f"{len(result['fps']['plain loop'])} interleaved rounds.",
        "",
        "| peer, workers | frames a second, median | range |",
        "|---|---|---|",
        *rows,
        "",
        f"Overhead against the plain loop: processes {overheads[0]:.1f} %, Ray "
        f"{overheads[1]:.1f} %. Two workers against one: processes "
        f"{summary['processes_ratio']:.2f}, Ray {summary['ray_ratio']:.2f}. Start-up, not in "
        f"these: processes {starts['processes']:.1f} s, Ray {starts['Ray']:.1f} s.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=4, help="an even number")
    parser.add_argument("--frames", type=int, default=60)
    arguments = parser.parse_args()
    if arguments.videos < 2 or arguments.videos % 2:
        parser.error("--videos must be even: two workers share them")
    result = {"machine": describe_machine(1), **measure(arguments)}
    result["summary"] = summarise(result)
    write_results("batch", result, format_table(result))


if __name__ == "__main__":
    main()
