"""Lists of streams, addresses, engine records and snapshots: damaged, they are refused by name."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamseg.errors import EngineMismatch, SourceError, StateMismatch, StreamsegError
from streamseg.runtime.backends.engine_files import EngineRecord, read_record, sidecar_of
from streamseg.runtime.bundle.state import StateSnapshot, StateSpec
from streamseg.runtime.loop.roster import read_streams
from streamseg.runtime.session.snapshots import (
    SHAPE,
    Position,
    SessionSnapshot,
    read_snapshot,
    write_snapshot,
)
from streamseg.runtime.sources.options import parse_source
from tests.fuzzing import damage, inputs

STREAMS = b"""[defaults]
fps = 5
[streams.cam]
source = "rtsp://a:b@127.0.0.1/x?y=1#timeout=2"
when-behind = "drop"
max-latency-ms = 40.5
out = "x/{stream}.mp4"
loop = true
[streams.two]
source = "synthetic:clean?size=32x48"
"""


def expect(failure: type[StreamsegError], read: Callable[[], object]) -> None:
    """Read; the only failure allowed is the domain's, with a message that can be printed."""
    try:
        read()
    except failure as error:
        assert str(error).isprintable()  # noqa: PT017


def test_damaged_lists_of_streams(tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "streams.toml"
    for _ in range(inputs(600)):
        path.write_bytes(damage(STREAMS, rng))
        expect(SourceError, lambda: read_streams(path))


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 100_000,
        "a=" + "{b=" * 50_000,
        "a." * 5_000 + "b=1",
        "[" + "a." * 5_000 + "b]",
        "x=" + "9" * 5000,
        '[streams.a]\nsource="x"\nfps=1' + "0" * 400,
        '[streams.a]\nsource="x"\ndecode_threads=1' + "0" * 400,
        '[streams.a]\nsource="x"\nmax-latency-ms=nan',
        '[streams.a]\nsource="x\\u0000y"',
    ],
    ids=lambda text: text[:30],
)
def test_extreme_lists_of_streams_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "streams.toml"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"streams\.toml"):
        read_streams(path)


def test_damaged_addresses() -> None:
    rng = random.Random(2)
    seeds = (
        "rtsp://joe:pw@cam:554/live?x=1#fps=5&timeout=2",
        "udp://239.0.0.1:5000",
        "synthetic:street?size=1x2#loop",
        "camera:0",
        "gst:videotestsrc ! fakesink",
        "file:///x",
        "http://[::1]:80/x#live=yes",
        "cäm.mp4",
    )
    for _ in range(inputs(3000)):
        text = damage(rng.choice(seeds).encode(), rng).decode("utf-8", "surrogateescape")
        expect(SourceError, lambda text=text: parse_source(text))  # type: ignore[misc]


def test_damaged_engine_records(tmp_path: Path) -> None:
    rng = random.Random(3)
    engine = tmp_path / "step.engine"
    fields = (
        "step",
        "sha256:00",
        "tensorrt",
        "10.3",
        "gpu",
        ("8.6",),
        "12",
        "fp32",
        "",
        "sha256:1",
    )
    good = EngineRecord(*fields).to_json().encode()
    for _ in range(inputs(600)):
        sidecar_of(engine).write_bytes(damage(good, rng))
        expect(EngineMismatch, lambda: read_record(engine))
    for text in ("[" * 100_000, "1" * 5000, json.dumps({**json.loads(good), "version": 3})):
        sidecar_of(engine).write_text(text)
        with pytest.raises(EngineMismatch):
            read_record(engine)


def test_damaged_snapshots(tmp_path: Path) -> None:
    rng = random.Random(4)
    table = (StateSpec("trace", (1, 6, 8)), StateSpec("past", (1, 6, 8), kind="ring", slots=3))
    tensors = {"trace": np.zeros((1, 6, 8), np.float32), "past": np.ones((3, 1, 6, 8), np.float32)}
    state = StateSnapshot(3, tensors, "a" * 64)
    snapshot = SessionSnapshot(
        state, Position(3, 0.1, (6, 8)), np.zeros(SHAPE, np.uint8), (1.0,), (2.0,)
    )
    path = tmp_path / "state.safetensors"
    write_snapshot(path, snapshot)
    good = path.read_bytes()
    size = struct.unpack("<Q", good[:8])[0]
    header, body = good[8 : 8 + size], good[8 + size :]
    for number in range(inputs(600)):
        changed = damage(header, rng)
        whole = struct.pack("<Q", len(changed)) + changed + body
        path.write_bytes(damage(good, rng) if number % 2 else whole)
        expect(StateMismatch, lambda: read_snapshot(path, table, "a" * 64))
