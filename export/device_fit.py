"""Which networks fit a device: estimates from one measured bundle, or bounds by roofline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch._subclasses.fake_tensor import FakeTensorMode

from streamseg.errors import ExportError
from streamseg.export.catalogue import Cost, known_rows
from streamseg.export.palettes import read_classes
from streamseg.runtime.host import LoadMeter
from streamseg.runtime.stream import open_stream
from streamseg.runtime.timing import time_stream


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
    """A bundle timed on this machine, or on another by ``streamseg bench --json``.

    Attributes:
        name: of its network in the catalogue.
        size: (H, W) of its frames.
        classes: how many it has.
        backend: that ran it.
        ms: mean milliseconds a frame of the steady schedule.
        machine: where, if that is another machine perhaps.
        doubt: why the times may be wrong; empty where nothing speaks against them.
    """

    name: str
    size: tuple[int, int]
    classes: int
    backend: str
    ms: float
    machine: str = ""
    doubt: str = ""


def find_entry(description: Mapping[str, Any], classes: int) -> str:
    """The network of the catalogue that a manifest's ``model`` describes.

    Raises:
        ExportError: it is of another size than any of them.
    """
    wanted = {key: value for key, value in description.items() if key != "nodes"}
    family = wanted.get("family")
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


def read_measured(path: Path) -> Measured:
    """A bundle timed now, or the JSON that ``streamseg bench`` wrote here or on another machine.

    Raises:
        BundleError: the bundle cannot be opened.
        ExportError: its network is not in the catalogue, or the file is not of ``bench``.
    """
    return _read_record(path) if path.is_file() else measure_bundle(path)


def _read_record(path: Path) -> Measured:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        size, classes, ms = record["size"], record["classes"], record["mean_ms"]
        valid = (
            isinstance(record["model"], dict)
            and len(size) == 2
            and all(type(value) is int and value > 0 for value in (*size, classes))
            and type(ms) in (int, float)
            and 0 < float(ms) < float("inf")
            and all(isinstance(record[key], str) for key in ("execution", "load_note"))
            and isinstance(record["machine"]["processor"], str)
        )
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        valid = False
    if not valid:
        raise ExportError(
            f"{path} is not a measurement: expected a bundle, or what "
            f"'streamseg bench BUNDLE --json {path.name}' writes"
        )
    return Measured(
        find_entry(record["model"], classes),
        (size[0], size[1]),
        classes,
        record["execution"],
        float(ms),
        record["machine"]["processor"],
        record["load_note"],
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
        frame, classes = stream.manifest.frame, len(stream.manifest.classes)
        name = find_entry(stream.manifest.model, classes)
        shape = (frame.height, frame.width, 3)
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        meter = LoadMeter()
        timing = time_stream(stream, [image], seconds=seconds)
        doubt = meter.read().note
        return Measured(name, shape[:2], classes, stream.execution, timing.steps.mean, doubt=doubt)


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
