"""Mutations of the product, each wrong in one way that only a device with its own time shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from streamseg.runtime import stream as streams
from streamseg.runtime.backends import onnxruntime_cuda_lane as ort_lane
from streamseg.runtime.backends import tensorrt_lane
from streamseg.runtime.backends.cuda import Cuda, DeviceArray
from streamseg.runtime.backends.device_buffers import DeviceBuffers
from streamseg.runtime.backends.device_lane import DeviceLane
from streamseg.runtime.bundle.state import StateSpec
from tests.runtime.backends.fake_tensorrt import WORKSPACE

Mutate = Callable[[pytest.MonkeyPatch], None]


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


def state_past_its_memory(patch: pytest.MonkeyPatch) -> None:
    """An address that is aligned, and too late in its allocation."""
    real = DeviceBuffers.__init__

    def make(self: DeviceBuffers, *given: Any, **options: Any) -> None:
        real(self, *given, **options)
        for arrays in self.state.values():
            arrays[0] = replace(arrays[0], pointer=arrays[0].pointer + 256)

    patch.setattr(DeviceBuffers, "__init__", make)


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
        slot.read_elsewhere = False

    patch.setattr(DeviceLane, "_admit", admit)


def handles_of_consumers_kept(patch: pytest.MonkeyPatch) -> None:
    """What the product did until an H200 ran it beside CuPy: the process crashed."""
    real = DeviceLane._admit

    def admit(self: DeviceLane, slot: Any, use: int, consumer: int) -> None:
        real(self, slot, use, consumer)
        if consumer:
            slot.consumers.add(consumer)
            slot.read_elsewhere = False

    patch.setattr(DeviceLane, "_admit", admit)


def readers_by_interface_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    skip(patch, DeviceLane, "_admit")


def stream_of_the_caller_not_kept(patch: pytest.MonkeyPatch) -> None:
    real = DeviceLane._admit

    def admit(self: DeviceLane, slot: Any, use: int, consumer: int) -> None:
        real(self, slot, use, consumer)
        slot.stream_owner = None

    patch.setattr(DeviceLane, "_admit", admit)


def a_third_step_runs_ahead(patch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a slot's last step on a device frame; its owner is replaced."""

    def watch(self: DeviceLane, slot: Any) -> None:  # noqa: ARG001
        slot.owner, slot.unwatched = None, False

    patch.setattr(DeviceLane, "_watch", watch)


def stream_of_the_caller_ignored(patch: pytest.MonkeyPatch) -> None:
    real = streams.view_device_array
    patch.setattr(streams, "view_device_array", lambda frame, consumer, _: real(frame, consumer, 0))


def interface_before_dlpack(patch: pytest.MonkeyPatch) -> None:
    """torch's interface of version 2, taken for one that is ready."""
    real = streams.view_device_array

    class Interface:
        def __init__(self, frame: Any) -> None:
            self.frame = frame
            self.__cuda_array_interface__ = {**frame.__cuda_array_interface__, "version": 3}

    def view(frame: Any, consumer: int, stream: int) -> Any:
        plain = hasattr(frame, "__dlpack_device__") and hasattr(frame, "__cuda_array_interface__")
        return real(Interface(frame) if plain else frame, consumer, stream)

    patch.setattr(streams, "view_device_array", view)


def memory_of_the_smallest_graph(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tensorrt_lane, "max", min, raising=False)


def memory_of_graphs_half_as_large(patch: pytest.MonkeyPatch) -> None:
    """The size said to TensorRT is right, the allocation is not."""
    real = DeviceBuffers.allocate

    def allocate(self: DeviceBuffers, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        if shape != (WORKSPACE,):
            return real(self, shape, dtype)
        return DeviceArray(real(self, (WORKSPACE // 2,), dtype).pointer, shape, dtype)

    patch.setattr(DeviceBuffers, "allocate", allocate)


def memory_of_graphs_in_the_labels(patch: pytest.MonkeyPatch) -> None:
    real = DeviceBuffers.allocate

    def allocate(self: DeviceBuffers, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        if shape == (WORKSPACE,):
            return self.slots[1].device_outputs["labels"]
        return real(self, shape, dtype)

    patch.setattr(DeviceBuffers, "allocate", allocate)


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
