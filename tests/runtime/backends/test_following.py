"""A frame told ahead is uploaded while the one before it steps, and changes no result."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamseg
from streamseg.runtime.backends.interface import Lane
from streamseg.runtime.loop.decoding import Decoder
from streamseg.runtime.loop.pipeline import run_stream
from streamseg.runtime.session.events import Event
from streamseg.runtime.session.session import Session
from streamseg.runtime.sinks import SegmentedFrame
from streamseg.runtime.sources import Frame, open_source
from streamseg.runtime.video.overlay import Overlay
from tests.runtime.backends.conftest import Machine
from tests.runtime.backends.test_device_frames import Buffer
from tests.runtime.backends.test_tensorrt import frames, open_both
from tests.runtime.toy import HEIGHT, WIDTH

STEPS = ("prepare", "start", "finish")


def watch(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of a lane's calls from here on."""
    order: list[str] = []

    def note(name: str, inner: Callable[..., None]) -> Callable[..., None]:
        def call(*given: Any) -> None:
            order.append(name)
            inner(*given)

        return call

    for name in ("prepare", "start", "finish"):
        monkeypatch.setattr(lane, name, note(name, getattr(lane, name)))
    return order


@pytest.mark.parametrize("seed", range(6))
def test_no_result_depends_on_the_frame_told_ahead(machine: Machine, seed: int) -> None:
    """It comes, does not come, comes after a reset or a frame on the device, or has a new size."""
    random = np.random.default_rng(seed)
    gpu, cpu = open_both(machine)
    on_device = Buffer(machine.cuda, (HEIGHT, WIDTH, 3))
    with gpu, cpu:
        images = frames(80, seed=seed)
        images[30:33] = [image.repeat(2, axis=0) for image in images[30:33]]
        saved = gpu.snapshot(), cpu.snapshot()
        for image, following in zip(images, [*images[1:], None], strict=True):
            told = [following, None, images[random.integers(80)]][
                random.choice(3, p=(0.7, 0.1, 0.2))
            ]
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
                other = random.choice(images[:30])
                on_device.content()[...] = other
                gpu.step_device(on_device), cpu.step(other)
            ours, theirs = gpu.step(image, told), cpu.step(image, told)
            assert ours.step == theirs.step
            assert np.array_equal(ours.labels, theirs.labels)
            assert np.array_equal(ours.logits, theirs.logits)  # type: ignore[arg-type]
    on_device.free()


def test_it_is_uploaded_once_and_before_the_step_is_waited_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        order = watch(stream._lane, monkeypatch)
        first, second, third, other = frames(4)
        stream.step(first, second)
        assert order == ["prepare", "start", "prepare", "finish"]
        stream.step(second, third)
        assert order[4:] == ["start", "prepare", "finish"]
        stream.step(other)
        assert order[7:] == ["prepare", "start", "finish"], "the third was dropped"


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


def test_a_run_uploads_ahead_and_resets_before_the_step(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, resets and their frames are those of the CPU, where nothing is told ahead."""
    peek = Decoder.peek

    def peek_when_ahead(decoder: Decoder) -> Frame | None:
        """As of a decoder that is faster than the step."""
        while not (decoder.waiting or decoder.ended):
            time.sleep(0.001)
        return peek(decoder)

    monkeypatch.setattr(Decoder, "peek", peek_when_ahead)
    orders: list[list[str]] = []
    found = []
    for stream in open_both(machine):
        events: list[Event] = []
        sink = LabelSink()
        with stream, open_source("synthetic:street?size=48x64&frames=40") as source:
            orders.append(watch(stream._lane, monkeypatch))
            session = Session(stream, on_event=events.append)

            def between(count: int, session: Session = session) -> None:
                if count % 7 == 0:
                    session.request_reset()

            run_stream(session, source, Overlay(stream.manifest.classes), [sink], on_frame=between)
        found.append(([event.frame for event in events if event.kind == "reset"], sink.labels))
    (our_resets, ours), (their_resets, theirs) = found
    assert our_resets == their_resets == [7, 14, 21, 28, 35]
    assert len(ours) == len(theirs) == 40
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    ahead = ["start", "prepare", "finish"]
    assert orders[0] == ["prepare", *ahead * 39, "start", "finish"], "each is uploaded once"
