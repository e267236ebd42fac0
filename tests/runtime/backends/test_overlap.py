"""Steps begun before the one before is finished: faster, and with the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamseg
from streamseg.errors import BackendError
from streamseg.runtime.backends.interface import Lane
from streamseg.runtime.loop.pipeline import run_stream
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.session import RunJob, Session
from streamseg.runtime.sinks import SegmentedFrame
from streamseg.runtime.sources import Frame, open_source
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.overlay import Overlay
from tests.runtime.backends.conftest import Machine
from tests.runtime.backends.test_device_frames import Buffer
from tests.runtime.backends.test_tensorrt import frames, open_both
from tests.runtime.toy import HEIGHT, WIDTH


@pytest.mark.parametrize("seed", range(6))
def test_steps_begun_ahead_give_the_results_of_steps_one_by_one(
    machine: Machine, seed: int
) -> None:
    """Resets, snapshots, restores and new frame sizes fall between a step's begin and its end.

    The CPU steps the same frames one by one.
    """
    random = np.random.default_rng(seed)
    gpu, cpu = open_both(machine)
    on_device = Buffer(machine.cuda, (HEIGHT, WIDTH, 3))
    expected: list[tuple[int, Any, Any]] = []
    with gpu, cpu:
        images = frames(80, seed=seed)
        images[30:33] = [image.repeat(2, axis=0) for image in images[30:33]]
        saved = gpu.snapshot(), cpu.snapshot()

        def check() -> None:
            step, labels, logits = expected.pop(0)
            ours = gpu.finish()
            assert ours.step == step
            assert np.array_equal(ours.labels, labels)
            assert np.array_equal(ours.logits, logits)  # type: ignore[arg-type]

        for image in images:
            move = random.choice(
                ["step", "reset", "save", "restore", "device"], p=(0.8, *[0.05] * 4)
            )
            if move == "reset":
                gpu.reset(), cpu.reset()
            elif move == "save":
                saved = gpu.snapshot(), cpu.snapshot()
            elif move == "restore":
                gpu.restore(saved[0]), cpu.restore(saved[1])
            elif move == "device":
                while expected:
                    check()
                other = random.choice(images[:30])
                on_device.content()[...] = other
                gpu.step_device(on_device), cpu.step(other)
            gpu.begin(image)
            theirs = cpu.step(image)
            expected.append((theirs.step, theirs.labels.copy(), theirs.logits.copy()))  # type: ignore[union-attr]
            while len(expected) == gpu.depth or (expected and random.random() < 0.3):
                check()
        while expected:
            check()
    on_device.free()


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_a_step_too_many_and_a_finish_too_many_are_refused(machine: Machine, backend: str) -> None:
    with streamseg.open(machine.bundle.path, backend=backend) as stream:
        with pytest.raises(BackendError, match="no step is under way"):
            stream.finish()
        image = frames(1)[0]
        for _ in range(stream.depth):
            stream.begin(image)
        with pytest.raises(BackendError, match="under way; finish"):
            stream.begin(image)
        with pytest.raises(BackendError, match="under way; finish"):
            stream.step(image)
        for number in range(stream.depth):
            assert stream.finish().step == number


class LabelSink:
    """Keeps every label map."""

    needs_picture = needs_confidence = False
    path = Path("memory")

    def __init__(self) -> None:
        self.labels: list[NDArray[np.uint8]] = []

    def write(self, frame: SegmentedFrame) -> None:
        self.labels.append(frame.labels.copy())

    def finish(self) -> str:
        return "memory"

    def discard(self) -> None:
        pass


def watch(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of a lane's calls from here on."""
    order: list[str] = []

    def note(name: str, inner: Callable[..., None]) -> Callable[..., None]:
        def call(*given: Any) -> None:
            order.append(name)
            inner(*given)

        return call

    for name in ("start", "finish"):
        monkeypatch.setattr(lane, name, note(name, getattr(lane, name)))
    return order


def test_a_run_begins_steps_ahead_and_resets_between_them(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, resets and their frames are those of the CPU, which begins none ahead."""
    orders: list[list[str]] = []
    found = []
    for stream in open_both(machine):
        events: list[Event] = []
        sink = LabelSink()
        with stream, open_source("synthetic:street?size=48x64&frames=40") as source:
            orders.append(watch(stream._lane, monkeypatch))

            def make(
                run_job: RunJob, stream: Stream = stream, heard: Any = events.append
            ) -> Session:
                return Session(stream, on_event=heard, run_job=run_job)

            run_stream(make, Cuts(source), Overlay(stream.manifest.classes), [sink])
        found.append(([event.frame for event in events if event.kind == "reset"], sink.labels))
    (our_resets, ours), (their_resets, theirs) = found
    assert our_resets == their_resets == [7, 14, 21, 28, 35]
    assert len(ours) == len(theirs) == 40
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert orders[1] == ["start", "finish"] * 40
    assert orders[0].count("start") == orders[0].count("finish") == 40
    assert "start start" in " ".join(orders[0]), "some step is begun before the last is finished"


class Cuts:
    """A source that is ahead of the step, and has a gap before every seventh frame."""

    def __init__(self, source: Any) -> None:
        self._frames, self._source = list(source), source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            later = frame.timestamp + 5 * (frame.index // 7)
            yield replace(frame, timestamp=later, silence=None)
