"""Every rule of the fake device catches a mutation of the product that breaks it.

A rule counts as catching when, for some seed, something is recorded as a violation, an error is
raised, or labels differ from the CPU's. The product itself passes the same courses.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamseg.errors import StreamsegError
from streamseg.runtime.backends import onnxruntime_cuda_lane as ort_lane
from streamseg.runtime.backends.cuda import Cuda, DeviceArray
from streamseg.runtime.backends.device_buffers import DeviceBuffers
from streamseg.runtime.backends.tensorrt_lane import TensorRtLane
from streamseg.runtime.stream import Stream, open_stream
from tests.runtime.backends import mutations
from tests.runtime.backends.conftest import MakeCudaMachine, MakeMachine
from tests.runtime.backends.courses import COURSES, play_host
from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_device import IllegalAddress, Work
from tests.runtime.backends.fake_tensorrt import WORKSPACE
from tests.runtime.backends.mutations import Mutate
from tests.runtime.backends.test_tensorrt import frames

SEEDS = range(6)


@pytest.fixture(params=["tensorrt", "cuda"])
def open_pair(
    request: pytest.FixtureRequest, make_machine: MakeMachine, make_cuda_machine: MakeCudaMachine
) -> Callable[[int], tuple[Stream, Stream, FakeCuda]]:
    def open_it(seed: int, **options: Any) -> tuple[Stream, Stream, FakeCuda]:
        if request.param == "cuda":
            ort = make_cuda_machine(seed=seed, devices=2, **options)
            ort.runtime.replay_waits = seed % 2 == 1
            return ort.open(), ort.open_cpu(), ort.cuda
        trt = make_machine(seed=seed, devices=2, **options)
        trt.build()
        path = trt.bundle.path
        gpu = open_stream(path, backend="tensorrt")
        return gpu, open_stream(path, backend="onnxruntime", native=False), trt.cuda

    return open_it


@pytest.mark.parametrize(
    ("course", "integrated"),
    [*((course, False) for course in COURSES), ("host", True), ("torch", True)],
)
def test_the_product_passes(open_pair: Any, course: str, integrated: bool) -> None:
    for seed in SEEDS:
        gpu, cpu, cuda = open_pair(seed, integrated=integrated)
        with gpu, cpu:
            assert COURSES[course](gpu, cpu, cuda), seed
        assert cuda.violations == []


def is_caught(open_pair: Any, course: str, message: str = "") -> str:
    """What gave a mutation away with the first seed that has it; empty when nothing did."""
    for seed in SEEDS:
        streams: list[Stream] = []
        try:
            gpu, cpu, cuda = open_pair(seed)
            streams = [gpu, cpu]
            noticed = [] if COURSES[course](gpu, cpu, cuda) else ["labels or state differ"]
        except (StreamsegError, IllegalAddress, AssertionError, ValueError) as error:
            noticed = [f"{type(error).__name__}: {error}"]
        finally:
            for stream in streams:
                with contextlib.suppress(Exception):
                    stream.close()
            cuda = sys.modules["cuda.bindings.runtime"]  # also where opening failed
            assert isinstance(cuda, FakeCuda)
            found = list(dict.fromkeys(cuda.violations))
            cuda.violations.clear()
            cuda.lost = cuda.lost or cuda.cudaError_t.cudaErrorIllegalAddress
            gc.collect()
            cuda.violations.clear()
        text = "; ".join([*noticed, *found])
        if text and re.search(message, text):
            return text
    return ""


READING = "(step|copy on the device)"  # what reads a frame of another library
MUTATIONS: list[tuple[Mutate, str, str]] = [
    # Mutation, course, what the rule says that it breaks.
    (mutations.no_wait_for_the_upload, "host", "race: step and upload"),
    (mutations.no_order_between_step_and_download, "host", "race: download and step"),
    (mutations.no_wait_for_the_labels, "host", "labels or state differ"),
    (mutations.one_slot_for_all, "host", "page-locked memory was written"),
    (mutations.state_in_place, "host", "output '.*' overlaps"),
    (mutations.half_the_memory, "host", "cudaErrorIllegalAddress"),
    (mutations.state_past_its_memory, "host", "'.*' does not fit into the allocation"),
    (mutations.unaligned_memory, "host", "not aligned|lies at an unaligned address"),
    (mutations.state_not_zeroed, "host", "labels or state differ"),
    (mutations.no_current_device, "elsewhere", "device is not current|InvalidResourceHandle"),
    (mutations.no_order_before_the_step, "device", f"race: {READING} and producer"),
    (mutations.no_order_after_the_step, "reused", f"race: producer and {READING}"),
    (mutations.stream_taken_as_known, "unnamed", f"race: {READING} and producer"),
    (mutations.stream_of_the_caller_ignored, "named", f"race: {READING} and producer"),
    (mutations.interface_before_dlpack, "torch", f"race: {READING} and producer"),
    (mutations.owner_let_go_at_once, "torch", "race: producer and "),
    (mutations.a_third_step_runs_ahead, "torch", "race: producer and "),
    (mutations.consumers_do_not_wait, "torch", "race: consumer and step"),
    (mutations.handles_of_consumers_kept, "destroyed", "that its owner has destroyed"),
    (mutations.stream_of_the_caller_not_kept, "kept", "that its owner has destroyed"),
    (mutations.readers_by_interface_not_waited_for, "interface", "race: step and consumer"),
    (mutations.labels_overwritten_under_their_reader, "torch", "race: step and consumer"),
]


@pytest.mark.parametrize(
    ("mutate", "course", "message"), MUTATIONS, ids=[m[0].__name__ for m in MUTATIONS]
)
def test_a_mutation_is_caught(
    open_pair: Any,
    monkeypatch: pytest.MonkeyPatch,
    mutate: Mutate,
    course: str,
    message: str,
) -> None:
    mutate(monkeypatch)
    assert is_caught(open_pair, course, message), is_caught(open_pair, course)


def test_frames_read_in_place_that_change_before_their_step_are_caught(
    open_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an integrated GPU the frame that the host writes is the one that the step reads."""
    mutations.no_wait_for_the_labels(monkeypatch)
    integrated = functools.partial(open_pair, integrated=True)
    assert is_caught(integrated, "host", "input 'frame' changed"), is_caught(integrated, "host")


@pytest.mark.parametrize(
    ("mutate", "size", "message"),
    [
        (mutations.memory_of_the_smallest_graph, None, "the workspace is too small"),
        (mutations.memory_of_graphs_half_as_large, WORKSPACE, "the workspace does not fit"),
        (mutations.memory_of_graphs_in_the_labels, 48, "output 'labels' overlaps 'the workspace'"),
    ],
)
def test_memory_of_graphs_that_is_wrong_is_caught(
    make_machine: MakeMachine,
    monkeypatch: pytest.MonkeyPatch,
    mutate: Mutate,
    size: int | None,
    message: str,
) -> None:
    mutate(monkeypatch)
    if size is not None:
        monkeypatch.setattr(mutations, "WORKSPACE", size)

    def open_pair(seed: int) -> tuple[Stream, Stream, FakeCuda]:
        trt = make_machine(seed=seed)
        trt.build()
        trt.trt.workspace = size or 512
        if size is None:
            trt.trt.workspaces = {trt.bundle.graphs["key"]: 4096}
        gpu = open_stream(trt.bundle.path, backend="tensorrt")
        return gpu, open_stream(trt.bundle.path, backend="onnxruntime", native=False), trt.cuda

    assert is_caught(open_pair, "host", message), is_caught(open_pair, "host")


RULES = (
    # What a fake records, and the test here in which a mutation makes it record that.
    ("the stream's device is not current in this thread", "no_current_device"),
    ("a stream is used that its owner has destroyed", "handles_of_consumers_kept"),
    ("race: {work.name} and {access.name}", "no_wait_for_the_upload"),
    ("race: a copy to the host and {access.name}", "bound_without_waiting"),
    ("memory was released under {access.name}", "released_under_a_queued_step"),
    ("page-locked memory was written while its upload was pending", "one_slot_for_all"),
    ("a captured graph has no nodes: its replay does nothing", "without_nodes"),
    ("input '{name}' changed {when}", "change_before_their_step"),
    ("'{name}' does not fit into the allocation at its address", "state_past_its_memory"),
    ("'{name}' lies at an unaligned address", "unaligned_memory"),
    ("output '{name}' overlaps '{other}'", "state_in_place"),
    ("the workspace does not fit into its allocation", "memory_of_graphs"),
)


def test_every_violation_that_a_fake_records_has_its_mutation() -> None:
    """Whoever adds a rule names the test that breaks the product with it."""
    folder, here = Path(__file__).parent, Path(__file__).read_text()
    recorded = [
        text
        for fake in sorted(folder.glob("fake_*.py"))
        for text in re.findall(r"""violate\(\s*f?"(.*?)"\s*\)""", fake.read_text(), re.DOTALL)
    ]
    assert len(recorded) == len(RULES)
    for text in recorded:
        (test,) = [test for rule, test in RULES if rule in text]
        assert re.search(rf"(def test_\w*{test}|mutations\.{test}\b)", here), test


# What only one backend can do wrong.


@pytest.mark.parametrize(
    "mutate",
    [
        mutations.bind_the_host_frame_once,
        mutations.one_graph_for_every_phase,
        mutations.state_kept_after_the_warm_up,
    ],
)
def test_a_mutation_of_the_onnxruntime_backend_is_caught(
    make_cuda_machine: MakeCudaMachine, monkeypatch: pytest.MonkeyPatch, mutate: Mutate
) -> None:
    mutate(monkeypatch)

    def open_pair(seed: int) -> tuple[Stream, Stream, FakeCuda]:
        ort = make_cuda_machine(seed=seed)
        return ort.open(), ort.open_cpu(), ort.cuda

    assert "differ" in is_caught(open_pair, "host")


@pytest.mark.parametrize("synchronised", [False, True])
def test_inputs_on_the_host_bound_without_waiting_are_caught(
    make_cuda_machine: MakeCudaMachine, monkeypatch: pytest.MonkeyPatch, synchronised: bool
) -> None:
    """Bound once (``synchronised``) they are stale; bound without a wait they are early."""
    real = ort_lane.CapturedBuffers.run

    def run(self: Any, plan: Any, slot: Any) -> None:
        if synchronised:
            step = self.bindings.get((plan, slot.index))
            if step is not None:
                step.host_inputs.clear()
            real(self, plan, slot)
            return
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Cuda, "synchronize", lambda *_: None)
            real(self, plan, slot)

    monkeypatch.setattr(ort_lane.CapturedBuffers, "run", run)

    def open_pair(seed: int) -> tuple[Stream, Stream, FakeCuda]:
        ort = make_cuda_machine(seed=seed)
        ort.runtime.host_inputs = {"frame", "trace.in"}
        return ort.open(), ort.open_cpu(), ort.cuda

    assert is_caught(open_pair, "host")


def test_a_workspace_that_two_streams_share_is_caught(
    make_machine: MakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: dict[int, DeviceArray] = {}
    real = DeviceBuffers.allocate

    def allocate(self: DeviceBuffers, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        if shape == (WORKSPACE,):  # the workspace
            return blocks.setdefault(id(self.cuda.api), real(self, shape, dtype))
        return real(self, shape, dtype)

    monkeypatch.setattr(DeviceBuffers, "allocate", allocate)

    def open_pair(seed: int) -> tuple[Stream, Stream, FakeCuda]:
        trt = make_machine(seed=seed)
        trt.build()
        path = trt.bundle.path
        gpu = open_stream(path, backend="tensorrt")
        return gpu, open_stream(path, backend="onnxruntime", native=False), trt.cuda

    assert "race" in is_caught(open_pair, "siblings")


@pytest.mark.parametrize("checked", [True, False], ids=["product", "mutation"])
def test_a_graph_without_nodes_is_not_replayed(
    make_machine: MakeMachine, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    """The engine captures onto a stream of its own, so that a replay would do nothing."""

    def instantiate(self: Cuda, graph: Any) -> Any:
        made = self.call("cudaGraphInstantiate", graph, 0)
        self.call("cudaGraphDestroy", graph)
        return made

    if not checked:
        monkeypatch.setattr(Cuda, "_instantiate", instantiate)

    def open_pair(seed: int) -> tuple[Stream, Stream, FakeCuda]:
        trt = make_machine(seed=seed)
        trt.build()
        trt.trt.strays = True
        path = trt.bundle.path
        gpu = open_stream(path, backend="tensorrt")
        return gpu, open_stream(path, backend="onnxruntime", native=False), trt.cuda

    assert bool(is_caught(open_pair, "host")) != checked


@pytest.mark.parametrize("call", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
@pytest.mark.parametrize("code", [2, 801, *range(900, 907), 908])
def test_any_capture_failure_lets_steps_run(
    make_machine: MakeMachine, call: str, code: int
) -> None:
    trt = make_machine(seed=code)
    trt.build()
    path = trt.bundle.path
    with (
        open_stream(path, backend="tensorrt") as gpu,
        open_stream(path, backend="onnxruntime", native=False) as cpu,
    ):
        if code in [error.value for error in trt.cuda.cudaError_t]:
            trt.cuda.fail(call, trt.cuda.cudaError_t(code), sticky=False)
        assert play_host(gpu, cpu, trt.cuda)
        assert trt.cuda.calls["cudaGraphLaunch"] == 0


def test_a_capture_left_open_is_caught(
    make_machine: MakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(self: Cuda, stream: Any, enqueue: Callable[[], None]) -> Any:
        mode = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        enqueue()
        return self._instantiate(self.call("cudaStreamEndCapture", stream))

    monkeypatch.setattr(Cuda, "capture", capture)

    def open_pair(seed: int) -> tuple[Stream, Stream, FakeCuda]:
        trt = make_machine(seed=seed)
        trt.build()
        trt.trt.capturable = False
        path = trt.bundle.path
        gpu = open_stream(path, backend="tensorrt")
        return gpu, open_stream(path, backend="onnxruntime", native=False), trt.cuda

    assert is_caught(open_pair, "host")


def test_memory_released_under_a_queued_step_is_caught(
    make_machine: MakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is closed with steps under way, and nobody waits for them."""
    mutations.skip(monkeypatch, DeviceBuffers, "settle")
    real = Cuda.synchronize
    closing: list[bool] = []

    def close(self: TensorRtLane) -> None:
        closing.append(True)
        real_close(self)

    real_close = TensorRtLane.close
    monkeypatch.setattr(TensorRtLane, "close", close)
    monkeypatch.setattr(Cuda, "synchronize", lambda *a: None if closing else real(*a))
    found: list[str] = []
    for seed in SEEDS:
        closing.clear()
        trt = make_machine(seed=seed)
        trt.build()
        stream = open_stream(trt.bundle.path, backend="tensorrt")
        for image in frames(2):
            stream.begin(image)
        stream.close()
        found += trt.cuda.violations
        trt.cuda.violations.clear()
        trt.cuda.lost = trt.cuda.cudaError_t.cudaErrorIllegalAddress
    assert any("released under" in text for text in found)


def test_the_course_of_work_on_a_stream_depends_on_the_seed() -> None:
    """The scheduler is seeded, and any stream may come first."""
    orders = set()
    for seed in range(12):
        cuda = FakeCuda(seed=seed)
        order: list[int] = []
        streams = [cuda.cudaStreamCreateWithFlags(1)[1] for _ in range(2)]
        for number in range(4):
            work = Work("w", [functools.partial(order.append, number)])
            cuda.add(streams[number % 2], work)
        cuda.cudaDeviceSynchronize()
        assert order.index(0) < order.index(2)
        assert order.index(1) < order.index(3)
        orders.add(tuple(order))
    assert len(orders) > 2
