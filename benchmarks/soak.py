"""A fleet under stress: streams join, leave, stall and are reset; then each runs on its own.

python samples/smoothing_bundle.py out/smooth --size 48x64
python benchmarks/soak.py out/smooth      # writes benchmarks/results/soak.{json,md}

Fails unless memory is flat, no thread or descriptor is left over, and the labels of every stream
are bit for bit those of its own run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from measuring import describe_machine, write_results

import streamseg
from streamseg.runtime.loop.decoding import Pacing
from streamseg.runtime.loop.fleet import Fleet
from streamseg.runtime.loop.member import FleetFrame
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sources import Frame, Source, open_source

STREAMS = 8
SIZE = (72, 96)
CLIP_FRAMES = 300
STALL = 0.25  # longest, seconds
WARM_UP = 0.2  # share of the frames
SLOPE_LIMIT = 0.01  # of resident memory, per 10,000 frames


@dataclass
class Life:
    """One stream from its joining to its leaving.

    Attributes:
        seed: of its pictures, gaps and stalls.
        length: frames after which it is removed.
        resets: frames before which it was reset by request.
        frames: stepped.
        digest: of all its labels.
    """

    seed: int
    length: int
    resets: set[int] = field(default_factory=set)
    frames: int = 0
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def take(self, labels: np.ndarray[Any, Any]) -> None:
        """Note the next frame's labels."""
        self.digest.update(labels)
        self.frames += 1


class HardSource:
    """A source with gaps in its time and, if asked, stalls; equal seeds give equal frames."""

    def __init__(self, inner: Source, seed: int, *, stalls: bool) -> None:
        self._inner, self._seed, self._stalls = inner, seed, stalls
        self._stopped = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __iter__(self) -> Iterator[Frame]:
        chance, mood = random.Random(self._seed), random.Random()
        away = 0.0
        for frame in self._inner:
            if self._stopped.is_set():
                return
            away += 5.0 * (chance.random() < 0.003)
            if self._stalls and mood.random() < 0.004:
                self._stopped.wait(STALL * mood.random())
            yield Frame(frame.image, frame.index, frame.timestamp + away, frame.received)

    def stop(self) -> None:
        """As of ``Source``."""
        self._stopped.set()
        self._inner.stop()

    def close(self) -> None:
        """As of ``Source``."""
        self._stopped.set()
        self._inner.close()


def open_hard(clip: Path, seed: int, *, stalls: bool) -> HardSource:
    """A looped clip from a position that the seed determines."""
    start = seed % 200 / 25
    return HardSource(
        open_source(f"{clip}#loop&start={start}&decode-threads=1"), seed, stalls=stalls
    )


def write_clip(path: Path) -> None:
    """A short H.264 file of moving noise."""
    random_bytes = np.random.default_rng(0)
    base = random_bytes.integers(0, 256, (SIZE[0], SIZE[1] * 4, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "30", "g": "10", "bf": "0"}
        for index in range(CLIP_FRAMES):
            image = np.ascontiguousarray(np.roll(base, -3 * index, axis=1)[:, : SIZE[1]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


POLICY = StatePolicy(gap_reset=2.0)


class Soak:
    """The fleet and its disturbances."""

    def __init__(self, bundle: Path, clip: Path, frames: int, seed: int) -> None:
        self.fleet: Fleet = streamseg.open_fleet(bundle, threads=1, on_event=self._hear)
        self.lives: dict[str, Life] = {}
        self.samples: list[tuple[int, int, int, int]] = []
        self.kinds: dict[str, int] = {}
        self._clip, self._frames = clip, frames
        self._chance = random.Random(seed)

    def _hear(self, event: Event) -> None:
        kind = f"{event.kind} {event.cause}".strip()
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if event.kind == "reset" and event.cause == "request":
            self.lives[event.stream].resets.add(event.frame)

    def _join(self) -> None:
        seed = len(self.lives)
        name = f"s{seed}"
        self.lives[name] = Life(seed, self._chance.randint(50, max(100, self._frames // 20)))
        self.fleet.add(
            name,
            lambda _stop: open_hard(self._clip, seed, stalls=True),
            policy=POLICY,
            pacing=Pacing(when_behind="wait"),
        )

    def run(self) -> None:
        """Step the fleet, with random disturbances."""
        for _ in range(STREAMS):
            self._join()
        for total, done in enumerate(self.fleet, 1):
            self._count(done)
            if self._chance.random() < 0.01:
                victim = self._chance.choice(self.fleet.names)
                self.fleet[victim].session.request_reset("trouble")
            if total % max(1, self._frames // 200) == 0:
                self.samples.append((total, *measure_process()))
            if total >= self._frames:
                return

    def _count(self, done: FleetFrame) -> None:
        life = self.lives[done.stream]
        life.take(done.result.labels)
        if life.frames >= life.length:
            self.fleet.remove(done.stream)
            self._join()

    def differing(self) -> list[str]:
        """Streams whose labels differ from those of a run on its own."""
        wrong = []
        for name, life in self.lives.items():
            alone = Life(life.seed, life.length)
            session = Session(self.fleet.stream.sibling(), POLICY, on_event=lambda _event: None)
            source = open_hard(self._clip, life.seed, stalls=False)
            for frame in source:
                if alone.frames == life.frames:
                    break
                if frame.index in life.resets:
                    session.request_reset("trouble")
                alone.take(session.process(frame).labels)
            source.close()
            if alone.digest.digest() != life.digest.digest():
                wrong.append(name)
        return wrong


def measure_process() -> tuple[int, int, int]:
    """Bytes resident, threads, open descriptors."""
    page = os.sysconf("SC_PAGE_SIZE")
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
    threads, descriptors = (
        len(list(Path("/proc/self", kind).iterdir())) for kind in ("task", "fd")
    )
    return resident, threads, descriptors


def slope_of(samples: list[tuple[int, int, int, int]]) -> float:
    """Growth of resident memory after the warm-up, as a share of it per 10,000 frames."""
    later = samples[int(len(samples) * WARM_UP) :]
    frames = np.array([sample[0] for sample in later], dtype=float)
    resident = np.array([sample[1] for sample in later], dtype=float)
    slope, _ = np.polyfit(frames, resident, 1)
    return float(slope * 10_000 / resident.mean())


def run_soak(bundle: Path, frames: int, seed: int) -> dict[str, Any]:
    """The contents of the result."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip)
        with streamseg.open(bundle, threads=1) as stream:
            for frame in open_hard(clip, 0, stalls=False):
                stream.step(frame.image)
                if frame.index == 50:
                    break
        before = measure_process()
        started = time.monotonic()
        soak = Soak(bundle, clip, frames, seed)
        with soak.fleet:
            soak.run()
            seconds = time.monotonic() - started
            for name in soak.fleet.names:
                soak.fleet.remove(name)
            wrong = soak.differing()
        after = measure_process()
    return {
        "frames": frames,
        "seed": seed,
        "seconds": round(seconds, 1),
        "lives": len(soak.lives),
        "events": dict(sorted(soak.kinds.items())),
        "slope_per_10000_frames": slope_of(soak.samples),
        "most_threads": max(sample[2] for sample in soak.samples),
        "most_descriptors": max(sample[3] for sample in soak.samples),
        "threads_left": after[1] - before[1],
        "descriptors_left": after[2] - before[2],
        "streams_that_differ": wrong,
        "samples": soak.samples,
    }


def find_faults(result: dict[str, Any], limit: float) -> list[str]:
    """The requirements that are not met."""
    faults = []
    if not result["slope_per_10000_frames"] < limit:
        faults.append(f"memory grows by {result['slope_per_10000_frames']:.2%} in 10,000 frames")
    if result["threads_left"] > 0:
        faults.append(f"{result['threads_left']} threads left")
    if result["descriptors_left"] > 0:
        faults.append(f"{result['descriptors_left']} descriptors left")
    if result["streams_that_differ"]:
        faults.append(f"streams that differ: {', '.join(result['streams_that_differ'])}")
    return faults


def describe(result: dict[str, Any], machine: dict[str, Any]) -> str:
    """The table as Markdown."""
    resident = [sample[1] / 1e6 for sample in result["samples"]]
    rows = {
        "frames in all": f"{result['frames']:,}",
        "streams at a time": STREAMS,
        "streams that joined": result["lives"],
        "resets (request, gap)": "{}, {}".format(
            *(result["events"].get(f"reset {cause}", 0) for cause in ("request", "gap"))
        ),
        "resident memory, first and last sample": f"{resident[0]:.1f} MB, {resident[-1]:.1f} MB",
        "slope after the warm-up, per 10,000 frames": f"{result['slope_per_10000_frames']:+.3%}",
        "threads, descriptors left": f"{result['threads_left']}, {result['descriptors_left']}",
        "streams whose labels differ from a run alone": len(result["streams_that_differ"]),
        "seconds": result["seconds"],
    }
    lines = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    head = f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit']}; "
    return f"{head}`python benchmarks/soak.py BUNDLE`\n\n| | |\n|---|---|\n{lines}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--slope-limit", type=float, default=SLOPE_LIMIT, help="share per 10,000 frames"
    )
    parser.add_argument("--print-only", action="store_true", help="write no results")
    arguments = parser.parse_args()
    result = run_soak(arguments.bundle, arguments.frames, arguments.seed)
    machine = describe_machine(1)
    table = describe(result, machine)
    if arguments.print_only:
        print(table)
    else:
        write_results("soak", {"machine": machine, **result}, table)
    sys.exit("; ".join(find_faults(result, arguments.slope_limit)) or 0)


if __name__ == "__main__":
    main()
