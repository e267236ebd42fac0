"""Every rule of the fake device catches a mutation of the product that breaks it.

A rule counts as catching when, for some seed, something is recorded as a violation, an error is
raised, or labels differ from the CPU's. The product itself passes the same courses.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import re
from collections.abc import Callable
from typing import Any

import pytest

from streamseg.errors import StreamsegError
from streamseg.runtime.backends import onnxruntime_cuda_lane as ort_lane
from streamseg.runtime.backends.cuda import Cuda, DeviceArray
from streamseg.runtime.backends.device_buffers import DeviceBuffers
from streamseg.runtime.backends.device_lane import DeviceLane
from streamseg.runtime.backends.tensorrt_lane import TensorRtLane
from streamseg.runtime.bundle.state import StateSpec
from streamseg.runtime.stream import Stream, open_stream
from tests.runtime.backends.conftest import MakeCudaMachine, MakeMachine
from tests.runtime.backends.courses import COURSES, play_host
from tests.runtime.backends.fake_cuda import FakeCuda
from tests.runtime.backends.fake_device import Work
from tests.runtime.backends.test_tensorrt import frames

Mutate = Callable[[pytest.MonkeyPatch], None]
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


@pytest.mark.parametrize("course", COURSES)
def test_the_product_passes(open_pair: Any, course: str) -> None:
    for seed in SEEDS:
        gpu, cpu, cuda = open_pair(seed)
        with gpu, cpu:
            assert COURSES[course](gpu, cpu, cuda), seed
        assert cuda.violations == []


def is_caught(open_pair: Any, course: str) -> str:
    """What gave a mutation away; empty when nothing did."""
    for seed in SEEDS:
        cuda = None
        streams: list[Stream] = []
        try:
            gpu, cpu, cuda = open_pair(seed)
            streams = [gpu, cpu]
            noticed = [] if COURSES[course](gpu, cpu, cuda) else ["labels or state differ"]
        except (StreamsegError, AssertionError, ValueError) as error:
            noticed = [f"{type(error).__name__}: {error}"]
        finally:
            for stream in streams:
                with contextlib.suppress(Exception):
                    stream.close()
            found = list(cuda.violations) if cuda is not None else []
            if cuda is not None:
                cuda.violations.clear()
                cuda.lost = cuda.lost or cuda.cudaError_t.cudaErrorIllegalAddress
            gc.collect()
            if cuda is not None:
                cuda.violations.clear()
        if noticed or found:
            return "; ".join([*noticed, *found[:3]])
    return ""


def skip(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    monkeypatch.setattr(owner, name, lambda *_, **__: None)


def no_wait_for_the_upload(patch: pytest.MonkeyPatch) -> None:
    real = Cuda.wait_event

    def wait_event(self: Cuda, stream: Any, event: Any) -> None:
        uploads = {int(slot.uploaded) for slot in SLOTS}
        if int(event) not in uploads:
            real(self, stream, event)

    remember_slots(patch)
    patch.setattr(Cuda, "wait_event", wait_event)


SLOTS: list[Any] = []


def remember_slots(patch: pytest.MonkeyPatch) -> None:
    SLOTS.clear()
    real = DeviceBuffers._new_slot

    def new_slot(self: DeviceBuffers, index: int) -> Any:
        SLOTS.append(real(self, index))
        return SLOTS[-1]

    patch.setattr(DeviceBuffers, "_new_slot", new_slot)


def no_order_between_step_and_download(patch: pytest.MonkeyPatch) -> None:
    def order(self: Cuda, before: Any, after: Any, event: Any) -> None:  # noqa: ARG001
        self.call("cudaEventRecord", event, before)

    patch.setattr(Cuda, "order", order)


def no_wait_for_the_labels(patch: pytest.MonkeyPatch) -> None:
    real = Cuda.call

    def call(self: Cuda, name: str, *arguments: Any) -> Any:
        if name == "cudaEventSynchronize":
            return None
        return real(self, name, *arguments)

    patch.setattr(Cuda, "call", call)


def one_slot_for_all(patch: pytest.MonkeyPatch) -> None:
    def advance(self: DeviceLane) -> None:
        self.frame = self._buffers.slots[0].frame[0]

    patch.setattr(DeviceLane, "_advance", advance)


def state_in_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StateSpec, "write_index", lambda self, step: self.read_index(step))


def half_the_memory(patch: pytest.MonkeyPatch) -> None:
    real = DeviceBuffers.allocate

    def allocate(self: DeviceBuffers, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        array = real(self, (*shape[:-1], -(-shape[-1] // 2)), dtype)
        return DeviceArray(array.pointer, shape, dtype)

    patch.setattr(DeviceBuffers, "allocate", allocate)


def unaligned_memory(patch: pytest.MonkeyPatch) -> None:
    real = DeviceBuffers.allocate

    def allocate(self: DeviceBuffers, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        array = real(self, (*shape[:-1], shape[-1] + 2), dtype)
        return DeviceArray(array.pointer + 2, shape, dtype)

    patch.setattr(DeviceBuffers, "allocate", allocate)


def state_not_zeroed(patch: pytest.MonkeyPatch) -> None:
    skip(patch, DeviceBuffers, "clear")


def no_current_device(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cuda, "device", lambda _: contextlib.nullcontext())


def no_order_before_the_step(patch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the producer's stream."""
    change_frame(patch, after=0)


def no_order_after_the_step(patch: pytest.MonkeyPatch) -> None:
    """The producer's stream waits for nothing."""
    change_frame(patch, before=0x5150)


def stream_taken_as_known(patch: pytest.MonkeyPatch) -> None:
    """Version 2 taken for version 3: what the product did until now."""
    change_frame(patch, known=True)


def owner_let_go_at_once(patch: pytest.MonkeyPatch) -> None:
    change_frame(patch, owner=None)


def change_frame(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    from dataclasses import replace

    real = DeviceLane._begin_device

    def begin(self: DeviceLane, plan: Any, slot: Any, frame: Any) -> None:
        if changes.get("before") and frame.before:
            # A stream of nobody's.
            made = self._cuda.api.queues
            made.setdefault(0x5150, type(made[1])(0x5150, 0))
        real(self, plan, slot, replace(frame, **changes))

    patch.setattr(DeviceLane, "_begin_device", begin)


def consumers_do_not_wait(patch: pytest.MonkeyPatch) -> None:
    skip(patch, DeviceLane, "_admit")


def labels_overwritten_under_their_reader(patch: pytest.MonkeyPatch) -> None:
    real = DeviceLane._admit

    def admit(self: DeviceLane, slot: Any, use: int, consumer: int) -> None:
        real(self, slot, use, consumer)
        slot.consumers.clear()

    patch.setattr(DeviceLane, "_admit", admit)


MUTATIONS: list[tuple[Mutate, str, str]] = [
    # Mutation, course, what gives it away.
    (no_wait_for_the_upload, "host", "race"),
    (no_order_between_step_and_download, "host", "race"),
    (no_wait_for_the_labels, "host", "differ|written|race"),
    (one_slot_for_all, "host", "page-locked memory was written|race"),
    (state_in_place, "host", "overlaps"),
    (half_the_memory, "host", "does not fit|out of|overlaps|illegal|Illegal"),
    (unaligned_memory, "host", "not aligned|unaligned"),
    (state_not_zeroed, "host", "differ"),
    (no_current_device, "elsewhere", "not current|InvalidResourceHandle"),
    (no_order_before_the_step, "device", "race"),
    (no_order_after_the_step, "reused", "race"),
    (stream_taken_as_known, "unnamed", "race|differ"),
    (owner_let_go_at_once, "torch", "race|input 'frame' changed|differ"),
    (consumers_do_not_wait, "torch", "race"),
    (labels_overwritten_under_their_reader, "torch", "race"),
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
    found = is_caught(open_pair, course)
    assert found, "nothing noticed it"
    assert re.search(message, found), found


# What only one backend can do wrong.


def bind_the_host_frame_once(patch: pytest.MonkeyPatch) -> None:
    """The stale frames of the backend until now: a host value, bound when the plan is first met."""
    real = ort_lane.CapturedBuffers._bind

    def bind(self: Any, entry: Any, plan: Any, slot: Any) -> Any:
        step = real(self, entry, plan, slot)
        value = self._executable.runtime.OrtValue.ortvalue_from_numpy(slot.frame)
        step.binding.bind_ortvalue_input("frame", value)
        return step

    patch.setattr(ort_lane.CapturedBuffers, "_bind", bind)


def one_graph_for_every_phase(patch: pytest.MonkeyPatch) -> None:
    real = ort_lane.CapturedBuffers._options

    def options(self: Any, capture: bool) -> Any:
        made = real(self, capture)
        made.entries["gpu_graph_id"] = "1"
        return made

    patch.setattr(ort_lane.CapturedBuffers, "_options", options)


def state_kept_after_the_warm_up(patch: pytest.MonkeyPatch) -> None:
    skip(patch, ort_lane.CapturedBuffers, "reset")
    real = DeviceBuffers.clear
    once: set[int] = set()

    def clear(self: DeviceBuffers) -> None:
        if id(self) not in once:
            once.add(id(self))
            real(self)

    patch.setattr(DeviceBuffers, "clear", clear)
    # Frames that are not black leave something in the state.
    zero = Cuda.zero
    patch.setattr(Cuda, "zero", lambda *a: None if a[1].dtype == "uint8" else zero(*a))


@pytest.mark.parametrize(
    "mutate", [bind_the_host_frame_once, one_graph_for_every_phase, state_kept_after_the_warm_up]
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
        if shape == (1024,):  # the workspace
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
    skip(monkeypatch, DeviceBuffers, "settle")
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
