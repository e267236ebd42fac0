"""Streams that share a step: each gets what it would get alone, whatever the others do."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamseg
from streamseg.errors import BackendError
from streamseg.runtime.backends.onnxruntime import OnnxRuntimeLane
from streamseg.runtime.stream import Stream
from tests.runtime.backends.conftest import MakeCudaMachine, MakeMachine
from tests.runtime.backends.test_device_frames import Buffer
from tests.runtime.batches import Reference, write_batch, write_single
from tests.runtime.toy import HEIGHT, WIDTH

COUNT = 3


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    return write_batch(tmp_path, COUNT)


def noise(random: np.random.Generator) -> NDArray[np.uint8]:
    return random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


class Pair:
    """A stream of a batch beside the same stream in NumPy."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.reference = stream, Reference()
        self.expected: deque[tuple[int, NDArray[np.float32]]] = deque()
        self.saved: tuple[Any, NDArray[np.float32], int] | None = None

    def begin(self, image: NDArray[np.uint8]) -> None:
        number = self.reference.steps
        self.stream.begin(image)
        self.expected.append((number, self.reference.step(image)))

    def finish(self) -> None:
        number, logits = self.expected.popleft()
        result = self.stream.finish()
        assert result.step == number
        assert np.array_equal(result.logits, logits)  # type: ignore[arg-type]
        assert np.array_equal(result.labels, logits.argmax(0))

    def reset(self) -> None:
        self.stream.reset()
        self.reference = Reference()

    def save(self) -> None:
        snapshot = self.stream.snapshot()
        assert np.array_equal(snapshot.tensors["trace"][0, 0], self.reference.trace)
        self.saved = snapshot, self.reference.trace.copy(), self.reference.steps

    def restore(self) -> None:
        if self.saved is not None:
            self.stream.restore(self.saved[0])
            self.reference.trace, self.reference.steps = self.saved[1].copy(), self.saved[2]

    def check_state(self) -> None:
        assert np.array_equal(self.stream.read("trace")[0, 0], self.reference.trace)
        assert self.stream.is_finite()


def join(base: Stream) -> Stream:
    """A stream that has a place in a batch, which comes with state or a step."""
    stream = base.sibling()
    stream.restore(stream.snapshot())
    return stream


def play(base: Stream, seed: int, moves: int = 150) -> None:
    """Streams join, leave, step out of turn, are reset and restored, in a random order."""
    random = np.random.default_rng(seed)
    pairs: list[Pair] = []
    for _ in range(moves):
        move = random.choice(
            ["begin", "finish", "join", "leave", "reset", "save", "restore", "state"],
            p=(0.44, 0.28, 0.08, 0.04, 0.04, 0.04, 0.04, 0.04),
        )
        if move == "join" or not pairs:
            pairs.append(Pair(base.sibling()))
            continue
        pair = pairs[int(random.integers(len(pairs)))]
        if move == "begin" and len(pair.expected) < pair.stream.depth:
            pair.begin(noise(random))
        elif move == "finish" and pair.expected:
            pair.finish()
        elif move == "leave":
            pair.stream.close()
            pairs.remove(pair)
        elif move == "reset":
            pair.reset()
        elif move == "save":
            pair.save()
        elif move == "restore":
            pair.restore()
        elif move == "state":
            pair.check_state()
    for pair in pairs:
        while pair.expected:
            pair.finish()
        pair.check_state()
        pair.stream.close()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("seed", range(4))
def test_streams_of_a_batch_are_those_of_numpy_on_the_cpu(
    batch: Path, seed: int, backend: str
) -> None:
    options: dict[str, Any] = {"precision": "fp32"} if backend == "openvino" else {}
    if backend == "openvino":
        pytest.importorskip("openvino")
    with streamseg.open(batch, backend=backend, batch_wait_ms=0, **options) as base:
        assert base.execution.endswith(f"{COUNT} streams a step")
        assert base.manifest.frame.batch == 1
        play(base, seed)


@pytest.mark.parametrize("seed", range(6))
def test_streams_of_a_batch_are_those_of_numpy_through_cuda(
    batch: Path, make_cuda_machine: MakeCudaMachine, seed: int
) -> None:
    machine = make_cuda_machine(bundle=batch, seed=seed)
    with machine.open(batch_wait_ms=0) as base:
        play(base, seed)


@pytest.mark.parametrize("seed", range(6))
def test_streams_of_a_batch_are_those_of_numpy_through_tensorrt(
    batch: Path, make_machine: MakeMachine, seed: int
) -> None:
    machine = make_machine(bundle=batch, seed=seed)
    machine.build()
    with streamseg.open(batch, backend="tensorrt", batch_wait_ms=0) as base:
        play(base, seed)


def test_a_batch_runs_when_every_stream_has_begun(batch: Path) -> None:
    random = np.random.default_rng(0)
    with streamseg.open(batch, backend="onnxruntime", batch_wait_ms=60_000) as base:
        pairs = [Pair(join(base)) for _ in range(COUNT)]
        for pair in pairs[:-1]:
            pair.begin(noise(random))
            assert pair.stream.patience > 50
        pairs[-1].begin(noise(random))
        assert [pair.stream.patience for pair in pairs] == [0, 0, 0]
        for pair in pairs:
            pair.finish()
        pairs[0].begin(noise(random))
        pairs[1].begin(noise(random))
        pairs[2].stream.close()  # nobody else is to come
        assert pairs[0].stream.patience == 0
        pairs[0].finish()
        pairs[1].finish()


def test_a_stream_waits_for_others_as_long_as_the_limit(batch: Path) -> None:
    random = np.random.default_rng(0)
    with streamseg.open(batch, backend="onnxruntime", batch_wait_ms=300) as base:
        early, late = Pair(join(base)), Pair(join(base))
        started = time.monotonic()
        early.begin(noise(random))
        early.finish()
        assert time.monotonic() - started >= 0.29

        early.begin(noise(random))
        image = noise(random)
        thread = threading.Timer(0.05, lambda: late.begin(image))
        started = time.monotonic()
        thread.start()
        early.finish()
        took = time.monotonic() - started
        thread.join()
        late.finish()
        assert 0.04 <= took < 0.29


def test_streams_beyond_a_batch_share_a_further_one(batch: Path) -> None:
    random = np.random.default_rng(0)
    with streamseg.open(batch, backend="onnxruntime", batch_wait_ms=0) as base:
        assert base.parallel == COUNT
        pairs = [Pair(base.sibling()) for _ in range(2 * COUNT + 1)]
        for _ in range(3):
            for pair in pairs:
                pair.begin(noise(random))
            for pair in reversed(pairs):
                pair.finish()


def test_nan_in_one_stream_stays_there(batch: Path) -> None:
    random = np.random.default_rng(0)
    with streamseg.open(batch, backend="onnxruntime", batch_wait_ms=0) as base:
        sick, well = base.sibling(), Pair(base.sibling())
        for _ in range(3):
            sick.step(noise(random))
            spoiled = sick.snapshot()
            spoiled.tensors["trace"][...] = np.nan
            sick.restore(spoiled)
            sick.begin(noise(random))
            well.begin(noise(random))
            sick.finish()
            well.finish()
            assert not sick.is_finite()
            well.check_state()


def test_a_failed_step_fails_its_streams_and_no_later_ones(
    batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    with streamseg.open(batch, backend="onnxruntime", batch_wait_ms=0) as base:
        streams = [join(base), join(base)]
        with monkeypatch.context() as patch:
            patch.setattr(OnnxRuntimeLane, "_run", refuse)
            for stream in streams:
                stream.begin(noise(random))
            for stream in streams:
                with pytest.raises(BackendError, match="no memory"):
                    stream.finish()
        pair = Pair(streams[0])
        pair.reset()
        pair.begin(noise(random))
        pair.finish()


def refuse(*_: object) -> None:
    raise BackendError("no memory")


def test_what_a_batch_cannot_do_is_refused(
    tmp_path: Path, batch: Path, make_cuda_machine: MakeCudaMachine
) -> None:
    single = write_single(tmp_path / "alone")
    with pytest.raises(BackendError, match="serves one stream a step, so that nothing waits"):
        streamseg.open(single, backend="onnxruntime", batch_wait_ms=5)
    machine = make_cuda_machine(bundle=batch)
    frame = Buffer(machine.cuda, (HEIGHT, WIDTH, 3))
    with machine.open() as base, pytest.raises(BackendError, match="no frames from device memory"):
        base.step_device(frame)
    frame.free()
