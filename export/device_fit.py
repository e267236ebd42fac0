"""Which networks fit a device: estimates from one measured bundle, or bounds by roofline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch._subclasses.fake_tensor import FakeTensorMode

from streamseg.errors import ExportError
from streamseg.export.catalogue import Cost, known_rows
from streamseg.export.palettes import read_classes
from streamseg.runtime.bundle.manifest import Manifest
from streamseg.runtime.stream import Stream, open_stream

_STEPS = 10


@dataclass(frozen=True)
class Board:
    """Peaks of a device as its maker publishes them, dense, without sparsity.

    Attributes:
        name: of the device.
        tflops: 10^12 operations a second, a multiply-add counting two, at ``bytes_a_value``.
        bandwidth: 10^9 bytes a second of its memory.
        bytes_a_value: of weights and maps at that peak.
        source: what the peak follows from.
    """

    name: str
    tflops: float
    bandwidth: float
    bytes_a_value: int
    source: str


def _orin(name: str, tensor_cores: int, ghz: float, bandwidth: float) -> Board:
    # An Orin tensor core does 256 multiply-adds in float16 a cycle: 170 sparse INT8 TOPS of 64
    # cores at 1.3 GHz, halved for dense and again for float16.
    return Board(
        name,
        tensor_cores * ghz * 512 / 1000,
        bandwidth,
        2,
        f"float16, {tensor_cores} tensor cores at {ghz:g} GHz, NVIDIA's data sheet",
    )


BOARDS = {
    board.name: board
    for board in (
        _orin("jetson-orin-nano-8gb", 32, 0.625, 68.0),
        _orin("jetson-orin-nano-super-8gb", 32, 1.02, 102.0),
        _orin("jetson-orin-nx-16gb", 32, 0.918, 102.4),
        _orin("jetson-agx-orin-64gb", 64, 1.3, 204.8),
        Board(
            "raspberry-pi-5",
            0.1536,
            17.1,
            4,
            "float32, 4 Cortex-A76 at 2.4 GHz with 16 operations a cycle; LPDDR4X-4267, 32 bits",
        ),
    )
}


@dataclass(frozen=True)
class Measured:
    """A bundle timed on this machine.

    Attributes:
        name: of its network in the catalogue.
        manifest: the bundle's.
        backend: that ran it.
        ms: mean milliseconds a frame of the steady schedule.
    """

    name: str
    manifest: Manifest
    backend: str
    ms: float

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of its frames."""
        return self.manifest.frame.height, self.manifest.frame.width


def find_entry(manifest: Manifest) -> str:
    """The network of the catalogue that a bundle holds.

    Raises:
        ExportError: it is of another size than any of them.
    """
    wanted = {key: value for key, value in manifest.model.items() if key != "nodes"}
    family = wanted.get("family")
    classes = len(manifest.classes)
    with FakeTensorMode():
        for name, row in known_rows().items():
            if name.partition("/")[0] != family:
                continue
            model = row.build(classes)
            model.classes = read_classes({}, classes)
            if dict(model.describe()) == wanted:
                return name
    raise ExportError(
        f"this bundle's {family} network is not one of the catalogue, so nothing can be scaled "
        "from it: give a bundle of a listed network (streamseg models)"
    )


def measure_bundle(path: Path, *, seconds: float = 3.0) -> Measured:
    """Time the steps of a bundle of a listed network on the default backend, after a warm-up.

    Args:
        path: of the bundle.
        seconds: for how long, at least.

    Raises:
        BundleError: the bundle cannot be opened.
        ExportError: its network is not in the catalogue.
    """
    with open_stream(path) as stream:
        name = find_entry(stream.manifest)
        return Measured(name, stream.manifest, stream.execution, _time_steps(stream, seconds))


def _time_steps(stream: Stream, seconds: float) -> float:
    frame_spec = stream.manifest.frame
    shape = (frame_spec.height, frame_spec.width, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    period = max(row.every for row in stream.manifest.schedule)
    warm = max(row.start for row in stream.manifest.schedule) + period
    for spec in stream.manifest.state:
        if spec.kind == "given":
            stream.give(spec.name, np.zeros(spec.shape, spec.dtype))
    for _ in range(warm):
        stream.step(image)
    steps, start = 0, time.perf_counter()
    # Whole periods, so that key frames have their share.
    while steps < _STEPS or steps % period or time.perf_counter() - start < seconds:
        stream.step(image)
        steps += 1
    return (time.perf_counter() - start) / steps * 1000


def estimate_ms(measured: Measured, own: Cost, other: Cost) -> float:
    """Time of another network on the same machine, scaled by work; an estimate."""
    return measured.ms * other.frame_gmacs / own.frame_gmacs


def roofline_ms(cost: Cost, board: Board) -> float:
    """Milliseconds below which no frame can take on a board; a bound, not an estimate.

    The longer of the time for all multiply-adds at the peak and the time to read the weights once
    and to read and write the state.

    Source: Williams, Waterman and Patterson, Roofline (CACM 2009).
    """
    compute = 2 * cost.frame_gmacs / board.tflops
    moved = cost.parameters * board.bytes_a_value + 2 * cost.state_bytes
    return max(compute, moved / 1e6 / board.bandwidth)


def find_board(name: str, boards: Mapping[str, Board] = BOARDS) -> Board:
    """A board by its name.

    Raises:
        ExportError: it is not listed.
    """
    if name not in boards:
        raise ExportError(f"'{name}' is not a listed board: {', '.join(boards)}")
    return boards[name]
