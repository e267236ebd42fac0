"""Every family on the fake device, over three periods of its schedule, bit for bit as on the CPU.

The graphs run in the same ONNX Runtime on both sides, so that any difference is the backend's: a
stale frame, a wrong buffer, a missing wait.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.runtime.backends.interface import plan_step
from streamseg.runtime.stream import Stream
from tests.conftest import TinyBundle
from tests.export.tiny import FAMILIES, SIZE
from tests.runtime.backends.conftest import (  # noqa: F401 - fixtures
    MakeCudaMachine,
    make_cuda,
    make_cuda_machine,
)
from tests.runtime.backends.fake_producers import TorchLike, read_by_dlpack

MOST_FRAMES = 48


def period_of(stream: Stream) -> int:
    """Steps until the last plan that is new, and one more."""
    seen: dict[Any, int] = {}
    for step in range(200):
        seen.setdefault(plan_step(stream.manifest, step), step)
    return max(seen.values()) + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_host_and_device_frames_give_the_labels_and_state_of_the_cpu(
    tiny_bundle: TinyBundle,
    make_cuda_machine: MakeCudaMachine,  # noqa: F811
    family: str,
) -> None:
    path: Path = tiny_bundle(family, "fp32")
    machine = make_cuda_machine(bundle=path, seed=len(family))
    machine.runtime.replay_waits = False
    producer = TorchLike(machine.cuda)
    reader = machine.cuda.cudaStreamCreateWithFlags(1)[1]
    with machine.open() as gpu, machine.open_cpu() as cpu:
        count = min(3 * period_of(gpu), MOST_FRAMES)
        random = np.random.default_rng(3)
        images = list(random.integers(0, 256, (count, *SIZE, 3), dtype=np.uint8))
        for spec in gpu.manifest.state:
            if spec.kind == "given":
                content = random.standard_normal(spec.shape).astype(spec.dtype)
                gpu.give(spec.name, content), cpu.give(spec.name, content)
        want = [cpu.step(image).labels.copy() for image in images]
        state = cpu.snapshot().tensors
        got = [result.labels.copy() for result in gpu.steps_through(images)]
        assert all(map(np.array_equal, got, want))
        assert all(np.array_equal(gpu.snapshot().tensors[name], state[name]) for name in state)
        gpu.reset()
        seen: list[Any] = []
        for image in images:
            labels = gpu.step_device(producer.frame(image)).labels
            read_by_dlpack(machine.cuda, labels, reader, seen)
        machine.cuda.cudaDeviceSynchronize()
        assert all(map(np.array_equal, seen, want))
        assert all(np.array_equal(gpu.snapshot().tensors[name], state[name]) for name in state)
    machine.cuda.cudaStreamDestroy(reader)
    producer.close()
