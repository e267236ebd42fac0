"""Streaming through engines, against the CPU backend bit by bit."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamseg
from streamseg.errors import BackendError
from streamseg.runtime.backends import device_lane
from streamseg.runtime.backends.interface import plan_step
from tests.runtime.backends.conftest import Machine, MakeMachine
from tests.runtime.backends.fake_device import Work
from tests.runtime.toy import HEIGHT, WIDTH

Frames = list[NDArray[np.uint8]]


def frames(count: int, seed: int = 0) -> Frames:
    random = np.random.default_rng(seed)
    return list(random.integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8))


def run(stream: streamseg.Stream, images: Frames) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    results = []
    for image in images:
        result = stream.step(image)
        assert result.logits is not None
        results.append((result.labels.copy(), result.logits.copy()))
    return results


def same(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b)
        for mine, other in zip(ours, theirs, strict=True)
        for a, b in zip(mine, other, strict=True)
    )


def open_both(machine: Machine, **options: Any) -> tuple[streamseg.Stream, streamseg.Stream]:
    path = machine.bundle.path
    gpu = streamseg.open(path, backend="tensorrt", **options)
    return gpu, streamseg.open(path, backend="onnxruntime", native=False)


def test_labels_and_logits_are_those_of_the_cpu(machine: Machine) -> None:
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        assert gpu.execution == "tensorrt 10.3.0 on 'Orin' (8.7), fp32, lowering"
        assert same(run(gpu, frames(41)), run(cpu, frames(41)))


@pytest.mark.parametrize("seed", range(8))
def test_resets_snapshots_and_siblings_follow_the_cpu(machine: Machine, seed: int) -> None:
    random = np.random.default_rng(seed)
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        pairs = [(gpu, cpu)]
        saved = [(gpu.snapshot(), cpu.snapshot())]
        for turn in range(60):
            ours, theirs = pairs[random.integers(len(pairs))]
            move = random.choice(["step", "step", "step", "reset", "save", "restore", "fork"])
            if move == "reset":
                ours.reset(), theirs.reset()
            elif move == "save":
                saved.append((ours.snapshot(), theirs.snapshot()))
            elif move == "restore":
                mine, other = saved[random.integers(len(saved))]
                ours.restore(mine), theirs.restore(other)
            elif move == "fork" and len(pairs) < 3:
                pairs.append((ours.sibling(), theirs.sibling()))
            else:
                images = frames(int(random.integers(1, 5)), seed=turn)
                assert same(run(ours, images), run(theirs, images)), (seed, turn)
        for mine, other in saved:
            assert mine.step == other.step
            for name, content in other.tensors.items():
                assert np.array_equal(mine.tensors[name], content), name
        for ours, theirs in pairs[1:]:
            ours.close(), theirs.close()


def test_opening_runs_every_graph_on_scratch_and_leaves_the_state_empty(machine: Machine) -> None:
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        assert machine.trt.enqueued == len(machine.bundle.graphs)
        snapshot = stream.snapshot()
        assert snapshot.step == 0
        assert not any(content.any() for content in snapshot.tensors.values())


def test_each_phase_is_captured_once_and_replayed(machine: Machine) -> None:
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        # Plans recur every 12 steps once the warm-up rows are over; the two slots fit into that.
        run(stream, frames(2 + 2 + 12))
        plans = {plan_step(stream.manifest, step) for step in range(16)}
        captured = machine.cuda.calls["cudaGraphInstantiate"]
        assert captured == len(machine.cuda.executables) == len(plans)
        assert machine.trt.enqueued == len(machine.bundle.graphs) + captured
        run(stream, frames(48))
        assert machine.cuda.calls["cudaGraphInstantiate"] == captured
        assert machine.cuda.calls["cudaGraphLaunch"] == 64


def test_one_block_of_memory_serves_a_lanes_graphs_and_fits_the_largest(
    make_machine: MakeMachine,
) -> None:
    machine = make_machine()
    machine.build()
    trt, graphs = machine.trt, machine.bundle.graphs
    trt.workspaces = {content: 768 * place for place, content in enumerate(graphs.values(), 1)}
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        assert len(trt.blocks) == len(graphs)
        (block,) = set(trt.blocks)
        assert block[1] == 768 * len(graphs)
        assert same(run(gpu, frames(20)), run(cpu, frames(20)))
        with gpu.sibling():
            own = set(trt.blocks[len(graphs) :])
            assert len(own) == 1
            assert own != {block}, "their steps overlap"
        assert len(trt.blocks) == 2 * len(graphs), "nothing is made during steps"


def test_a_step_allocates_nothing(machine: Machine) -> None:
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        run(stream, frames(16))
        before = machine.cuda.calls.copy()
        run(stream, frames(24))
        for call in ("cudaMalloc", "cudaHostAlloc", "cudaEventCreateWithFlags", "cudaFree"):
            assert machine.cuda.calls[call] == before[call], call


def test_state_never_leaves_the_device(machine: Machine) -> None:
    """A step copies the frame up, labels and logits down, and nothing else."""
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        run(stream, frames(8))
        before = machine.cuda.calls["cudaMemcpyAsync"]
        run(stream, frames(10))
        assert machine.cuda.calls["cudaMemcpyAsync"] - before == 10 * 3, "logits were asked for"
        before = machine.cuda.calls["cudaMemcpyAsync"]
        for image in frames(10):
            stream.step(image)
        assert machine.cuda.calls["cudaMemcpyAsync"] - before == 10 * 2, "nobody asked for logits"


def test_two_steps_overlap_and_keep_their_order(machine: Machine) -> None:
    images = frames(21, seed=5)
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        expected = run(cpu, images)
        lane = gpu._lane
        got = []
        for step, image in enumerate(images):
            np.copyto(lane.frame, image)
            lane.start(plan_step(gpu.manifest, step))
            if step:
                lane.finish()
                got.append((lane.labels.copy(), np.array(lane.read_logits())))
        lane.finish()
        got.append((lane.labels.copy(), np.array(lane.read_logits())))
        assert same(got, expected)
        with pytest.raises(BackendError, match="no step is under way"):
            lane.finish()
        for step in (0, 1):
            lane.start(plan_step(gpu.manifest, step))
        with pytest.raises(BackendError, match="2 steps are under way"):
            lane.start(plan_step(gpu.manifest, 2))


def test_upload_does_not_wait_for_a_step(machine: Machine) -> None:
    """The frame after next travels while the step before it computes."""
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        lane: Any = stream._lane
        run(stream, frames(3))
        uploads = machine.cuda.queue(lane._buffers.uploads)
        before = uploads.clock.copy()
        for step in (3, 4):
            lane.start(plan_step(stream.manifest, step))
        steps = lane.stream
        assert uploads.clock.get(steps) == before.get(steps), "no upload waits for a step"
        lane.finish()
        assert machine.cuda.host[steps] < machine.cuda.queue(steps).clock[steps], (
            "the first result waits for the first step only"
        )
        lane.finish()


def test_labels_outlive_the_stream(machine: Machine) -> None:
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        labels = stream.step(frames(1)[0]).labels
        kept = labels.copy()
    assert np.array_equal(labels, kept)
    assert machine.cuda.pinned, "page-locked memory lives as long as a view of it"
    del labels, stream
    gc.collect()
    assert not machine.cuda.pinned


def test_closing_gives_everything_back(machine: Machine) -> None:
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        other = stream.sibling()
        run(stream, frames(5))
        run(other, frames(5))
        held = len(machine.cuda.arrays)
        other.close()
        assert len(machine.cuda.arrays) < held
        run(stream, frames(3))
    gc.collect()
    assert machine.cuda.held() == {}
    assert machine.trt.contexts == 0


def test_a_graph_that_cannot_be_captured_runs_all_the_same(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.trt.capturable = False
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        assert same(run(gpu, frames(20)), run(cpu, frames(20)))
    message = [
        entry.getMessage() for entry in caplog.records if "without a CUDA graph" in entry.msg
    ]
    warned = [e for e in caplog.records if "without" in e.msg and e.levelname == "WARNING"]
    assert len(warned) == len(machine.bundle.graphs), "one warning a graph"
    assert "operation not permitted when stream is capturing" in message[0]


def test_refused_capture_is_retried_and_then_replayed(machine: Machine) -> None:
    machine.trt.capturable = False
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        assert same(run(gpu, frames(20)), run(cpu, frames(20)))
        machine.trt.capturable = True
        assert same(run(gpu, frames(60)), run(cpu, frames(60)))
        before = machine.cuda.calls["cudaGraphLaunch"]
        assert before > 0
        assert same(run(gpu, frames(10)), run(cpu, frames(10)))
        assert machine.cuda.calls["cudaGraphLaunch"] == before + 10


def test_rtx_keeps_what_it_compiles_beside_the_engine(make_machine: MakeMachine) -> None:
    machine = make_machine("tensorrt_rtx", "1.7.1.116")
    engines = machine.build()
    gpu, cpu = open_both(machine)
    with gpu, cpu:
        assert gpu.execution.startswith("tensorrt_rtx 1.7.1.116 on 'Orin'")
        assert same(run(gpu, frames(15)), run(cpu, frames(15)))
    for engine in engines:
        (cache,) = engine.parent.glob(f"{engine.stem}.8.7-*.rtxcache")
        assert cache.read_bytes().startswith(b"compiled ")
    with streamseg.open(machine.bundle.path, backend="tensorrt_rtx"):
        assert all(cache.read for cache in machine.trt.caches[-3:])


def test_rtx_recompiles_when_its_cache_is_of_another_gpu(
    make_machine: MakeMachine, caplog: pytest.LogCaptureFixture
) -> None:
    machine = make_machine("tensorrt_rtx", "1.7.1.116")
    machine.build()
    with streamseg.open(machine.bundle.path, backend="tensorrt"):
        pass
    for path in Path(machine.bundle.path.parent / "cache").rglob("*.rtxcache"):
        path.write_bytes(b"something else")
    with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
        run(stream, frames(2))
    assert "compiling again" in caplog.text


def test_values_that_are_not_finite_are_looked_for_on_the_device(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    class Library:
        """The library's call in NumPy."""

        def find_nonfinite(
            self, values: int, flag: int, *, count: int, half: bool, stream: int
        ) -> None:
            looked.append(count)
            kind = np.float16 if half else np.float32
            size = count * np.dtype(kind).itemsize

            def look() -> None:
                if not np.isfinite(machine.cuda.view(values, size).view(kind)).all():
                    machine.cuda.view(flag, 4).view(np.int32)[0] = 1

            reads, writes = [(values, values + size)], [(flag, flag + 4)]
            machine.cuda.add(stream, Work("look", [look], reads, writes))

    for library in (None, Library()):
        if library is not None:
            monkeypatch.setattr(device_lane, "load_cuda", lambda library=library: library)
        with streamseg.open(machine.bundle.path, backend="tensorrt") as stream:
            run(stream, frames(5))
            assert stream.is_finite()
            saved = stream.snapshot()
            broken = {name: content.copy() for name, content in saved.tensors.items()}
            broken["past"][1, 0, 0, 3, 4] = np.nan
            stream.restore(streamseg.StateSnapshot(saved.step, broken, saved.model))
            assert not stream.is_finite()
    assert len(looked) == 2 * 5, "a carried state, three slots, a key"
