"""Faulty streams among healthy streams: labels that are lost, and labels that are wrong.

python samples/smoothing_bundle.py out/smooth --size 48x64
python benchmarks/containment.py out/smooth   # writes benchmarks/results/containment.{json,md}

First every kind of exception in every stage of one of five streams, then many streams of which ten
misbehave, each in a different way. Fails unless every other stream gives all its labels, equal to
those of a run on its own, and every failure is an event with its reason.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measuring import describe_machine, write_results

import streamseg
from streamseg.runtime.loop.decoding import Pacing
from streamseg.runtime.loop.fleet import Attachment, Fleet
from streamseg.runtime.loop.member import Member
from streamseg.runtime.loop.writing import Outputs
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.policy import StatePolicy
from streamseg.runtime.session.session import Session
from streamseg.runtime.sinks import SegmentedFrame
from streamseg.runtime.sources import Frame
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.overlay import Overlay

SIZE = (48, 64)
FRAMES = 40  # of a stream among five
AT = 7  # frame at which the fault happens
POLICY = StatePolicy(scene_cut=float("inf"))
ERRORS: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError("injected"),
    "cv2.error": lambda: cv2.error("injected"),
    "MemoryError": lambda: MemoryError("injected"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "injected"),
}
WHATS = ("lost", "wrong", "unreported")
KNOWN = re.compile("injected|frame is float32")  # reasons of the faults injected here
STAGES = ("open", "read", "policy", "begin", "finish", "requests", "sinks", "write", "complete")


def picture(seed: int, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The frame of a seed and an index, (48, 64, 3) uint8."""
    random = np.random.default_rng((seed, index))
    return random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


class Pictures:
    """A source of drawn noise; ``on_read`` is called before each frame and may do anything."""

    fps, frame_count, size, live = 25.0, None, SIZE, False
    corrupt, reconnects, passed_over, detail, on_event = 0, 0, 0, "", None

    def __init__(self, seed: int, frames: int, on_read: Callable[[int], object]) -> None:
        self.name = f"pictures {seed}"
        self.stopped = threading.Event()
        self._seed, self._frames, self._on_read = seed, frames, on_read

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._frames):
            changed = self._on_read(index)
            if self.stopped.is_set():
                return
            image = picture(self._seed, index) if changed is None else changed
            yield Frame(image, index, index / 25)  # type: ignore[arg-type]

    def stop(self) -> None:
        """As of ``Source``."""
        self.stopped.set()

    def close(self) -> None:
        """As of ``Source``."""
        self.stopped.set()


@dataclass
class Digest:
    """A sink that keeps only the digest of the labels.

    Attributes:
        frames: written.
        completed: the output was finished, not discarded.
    """

    on_write: Callable[[int], object] = lambda _index: None
    on_finish: Callable[[], object] = lambda: None
    frames: int = 0
    completed: bool = False
    needs_picture: bool = False
    needs_confidence: bool = False
    path: Path = Path("memory")
    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def write(self, frame: SegmentedFrame) -> None:
        """Note one label map."""
        self.on_write(frame.index)
        self.digest.update(frame.labels)
        self.frames += 1

    def finish(self) -> str:
        """Complete it."""
        self.on_finish()
        self.completed = True
        return f"memory: {self.frames}"

    def discard(self) -> None:
        """Leave it incomplete."""


def alone(stream: Stream, seed: int, frames: int) -> bytes:
    """Digest of the labels of a stream that runs on its own."""
    session, total = Session(stream, POLICY, on_event=lambda _event: None), Digest()
    stream.reset()
    for index in range(frames):
        labels = session.process(Frame(picture(seed, index), index, index / 25)).labels
        total.digest.update(labels)
    return bytes(total.digest.digest())


@dataclass
class Fault:
    """Raises ``error`` in one stage of a stream, at frame ``AT``."""

    stage: str
    error: Callable[[], Exception]

    def fail(self, *_given: object) -> Any:
        """Raise."""
        raise self.error()

    def source(self, seed: int, frames: int) -> Callable[[threading.Event], Pictures]:
        """Opens the stream's source."""

        def read(index: int) -> None:
            if self.stage == "read" and index == AT:
                self.fail()

        def open_it(_stop: threading.Event) -> Pictures:
            return self.fail() if self.stage == "open" else Pictures(seed, frames, read)

        return open_it

    def sink(self) -> Digest:
        """The stream's output."""
        if self.stage == "sinks":
            self.fail()
        sink = Digest()
        if self.stage == "write":
            sink.on_write = lambda index: index == AT and self.fail()
        if self.stage == "complete":
            sink.on_finish = self.fail
        return sink

    def prepare(self, member: Member) -> None:
        """Break the member's session."""
        session: Any = member.session
        owner, name = {
            "policy": (session, "_judge"),
            "begin": (session.stream._lane, "start"),
            "finish": (session.stream._lane, "finish"),
            "requests": (session, "serve"),
        }.get(self.stage, (None, ""))
        if owner is None:
            return
        inner = getattr(owner, name)

        def call(*given: object) -> Any:
            if session.frames >= AT:
                self.fail()
            return inner(*given)

        setattr(owner, name, call)


@dataclass
class Outcome:
    """The results of the streams of one try."""

    wrong: int = 0
    lost: int = 0
    unreported: int = 0
    seconds: float = 0.0


def add_healthy(fleet: Fleet, seed: int, frames: int) -> Digest:
    """Add a stream without faults; returns its output."""
    sink = Digest()
    outputs = Outputs(lambda _source: [sink], Overlay(fleet.stream.manifest.classes))
    fleet.add(
        f"good{seed}",
        lambda _stop: Pictures(seed, frames, lambda _index: None),
        policy=POLICY,
        pacing=Pacing(when_behind="wait"),
        attachment=Attachment(outputs=outputs),
    )
    return sink


def add_faulty(fleet: Fleet, name: str, seed: int, frames: int, fault: Fault) -> None:
    """Add a stream with a fault."""
    outputs = Outputs(lambda _source: [fault.sink()], Overlay(fleet.stream.manifest.classes))
    fleet.add(
        name,
        fault.source(seed, frames),
        policy=POLICY,
        pacing=Pacing(when_behind="wait"),
        attachment=Attachment(outputs=outputs, on_join=fault.prepare),
    )


def judge(sinks: dict[int, Digest], expected: dict[int, bytes], frames: int) -> Outcome:
    """Compare the outputs of the healthy streams with those of runs on their own."""
    outcome = Outcome()
    for seed, sink in sinks.items():
        outcome.lost += frames - sink.frames + (not sink.completed)
        outcome.wrong += sink.digest.digest() != expected[seed]
    return outcome


def inject(bundle: Path, fault: Fault, message: str, expected: dict[int, bytes]) -> Outcome:
    """One of five streams fails; ``message`` must be in the reason of its end."""
    events: list[Event] = []
    with streamseg.open_fleet(bundle, threads=1, on_event=events.append) as fleet:
        sinks = {seed: add_healthy(fleet, seed, FRAMES) for seed in expected}
        add_faulty(fleet, "bad", 99, FRAMES, fault)
        for _ in fleet:
            pass
    outcome = judge(sinks, expected, FRAMES)
    reasons = [event.reason for event in events if (event.kind, event.stream) == ("end", "bad")]
    (reason,) = reasons or ("",)
    outcome.unreported = int(message not in reason or "injected" not in reason)
    return outcome


def misbehave(kind: int) -> tuple[Callable[[int], object], Fault | None]:
    """What a misbehaving stream does when it is read, or its fault."""
    random = np.random.default_rng(kind)

    def hang(index: int) -> object:
        return time.sleep(0.2) if index >= AT else None

    def resize(index: int) -> object:
        return random.integers(0, 256, (40 + index % 7, 60 + index % 5, 3), dtype=np.uint8)

    def spoil(index: int) -> object:
        return np.zeros((4, 4), np.float32) if index == AT else None

    readings: list[Callable[[int], object]] = [hang, resize, spoil]
    if kind < len(readings):
        return readings[kind], None
    stages = ("open", "read", "policy", "finish", "sinks", "write", "complete")
    error = list(ERRORS.values())[kind % len(ERRORS)]
    return lambda _index: None, Fault(stages[kind - len(readings)], error)


def crowd(bundle: Path, streams: int, bad: int, frames: int) -> dict[str, Any]:
    """Many streams of which some misbehave; those that end join again, under a new name."""
    each = -(-frames // (streams - bad))
    seeds = range(streams - bad)
    with streamseg.open(bundle, threads=1) as stream:
        expected = {seed: alone(stream, seed, each) for seed in seeds}
    ends: list[Event] = []
    names = itertools.count()
    with streamseg.open_fleet(
        bundle, threads=1, on_event=lambda event: event.kind == "end" and ends.append(event)
    ) as fleet:

        def add_bad(kind: int) -> None:
            reading, fault = misbehave(kind)
            name = f"bad{kind}-{next(names)}"
            if fault is not None:
                add_faulty(fleet, name, 1000 + kind, frames, fault)
            else:
                fleet.add(
                    name,
                    lambda _stop: Pictures(1000 + kind, frames, reading),
                    policy=POLICY,
                )

        sinks = {seed: add_healthy(fleet, seed, each) for seed in seeds}
        for kind in range(bad):
            add_bad(kind)
        began, rejoined = time.monotonic(), time.monotonic()
        for _ in fleet:
            running = fleet.names
            if not any(name.startswith("good") for name in running):
                break
            if time.monotonic() - rejoined > 0.2:
                rejoined = time.monotonic()
                for kind in range(bad):
                    if not any(name.startswith(f"bad{kind}-") for name in running):
                        add_bad(kind)
        seconds = time.monotonic() - began
        threads = threading.active_count()
    outcome = judge(sinks, expected, each)
    failures = [
        event.reason
        for event in ends
        if event.stream.startswith("bad") and event.reason != "the fleet was closed"
    ]
    return {
        "streams": streams,
        "misbehaving": bad,
        "frames": each * (streams - bad),
        "failures": len(failures),
        "unreported": sum(not KNOWN.search(reason) for reason in failures),
        "lost": outcome.lost,
        "wrong": outcome.wrong,
        "seconds": round(seconds, 1),
        "threads": threads,
        "threads_left": threading.active_count(),
    }


def run(bundle: Path, streams: int, frames: int) -> dict[str, Any]:
    """The contents of the result."""
    with streamseg.open(bundle, threads=1) as stream:
        expected = {seed: alone(stream, seed, FRAMES) for seed in range(4)}
    rows = []
    for stage in STAGES:
        outcomes = [
            inject(bundle, Fault(stage, error), name.removeprefix("cv2."), expected)
            for name, error in ERRORS.items()
        ]
        rows.append(
            {
                "stage": stage,
                "tries": len(outcomes),
                "lost": sum(outcome.lost for outcome in outcomes),
                "wrong": sum(outcome.wrong for outcome in outcomes),
                "unreported": sum(outcome.unreported for outcome in outcomes),
            }
        )
    return {"stages": rows, "crowd": crowd(bundle, streams, 10, frames)}


def find_faults(result: dict[str, Any]) -> list[str]:
    """The requirements that are not met."""
    faults = [
        f"{row['stage']}: {row[what]} {what}"
        for row in result["stages"]
        for what in WHATS
        if row[what]
    ]
    crowded = result["crowd"]
    faults += [f"crowd: {crowded[what]} {what}" for what in WHATS if crowded[what]]
    return faults


def describe(result: dict[str, Any], machine: dict[str, Any]) -> str:
    """The table for people."""
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, commit {machine['commit']}; toy model; "
        "`python benchmarks/containment.py BUNDLE`\n",
        "| fault in one stream | tries | frames that others lost | others with wrong labels "
        "| not reported as an event |",
        "|---|---|---|---|---|",
    ]
    kinds = ", ".join(ERRORS)
    lines += [
        f"| {kinds} in stage `{row['stage']}`, one of 5 streams | {row['tries']} | {row['lost']} "
        f"| {row['wrong']} | {row['unreported']} |"
        for row in result["stages"]
    ]
    crowded = result["crowd"]
    lines.append(
        f"| {crowded['misbehaving']} of {crowded['streams']} streams misbehave (hang, change size "
        "at every frame, give something other than a picture, raise) and join again, "
        f"{crowded['frames']:,} frames of the others in {crowded['seconds']} s "
        f"| {crowded['failures']} | {crowded['lost']} | {crowded['wrong']} "
        f"| {crowded['unreported']} |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--print-only", action="store_true", help="write no results")
    arguments = parser.parse_args()
    result = run(arguments.bundle, arguments.streams, arguments.frames)
    machine = describe_machine(1)
    table = describe(result, machine)
    if arguments.print_only:
        print(table)
    else:
        write_results("containment", {"machine": machine, **result}, table)
    faults = find_faults(result)
    if faults:
        sys.exit("; ".join(faults))


if __name__ == "__main__":
    main()
