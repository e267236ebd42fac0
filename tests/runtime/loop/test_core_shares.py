"""All cores on one step, or a step on each: measured where it may be chosen, then remembered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import streamseg
from streamseg.runtime.bundle.bundle import promised_identity, read_bundle, read_manifest
from streamseg.runtime.loop import core_shares
from streamseg.runtime.loop.core_shares import measure_shares, share_cores
from tests.runtime.toy import write_toy_bundle

CORES = {0, 2, 3, 5}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(core_shares.os, "sched_getaffinity", lambda _pid: CORES)
    return write_toy_bundle(tmp_path / "toy")


class Measure:
    """Milliseconds that are given, and how often they were asked for."""

    def __init__(self, gain: float) -> None:
        self.calls: list[int] = []
        self._gain = gain

    def __call__(
        self, _bundle: str | os.PathLike[str], _options: Mapping[str, Any], cores: int
    ) -> Mapping[str, float]:
        self.calls.append(cores)
        return {"one": 10.0 * self._gain, "parallel": 10.0}


@pytest.mark.parametrize(
    ("gain", "shares"), [(1.3, {"threads": 1, "parallel": 4}), (1.05, {}), (0.5, {})]
)
def test_cores_are_shared_where_that_is_faster_by_a_tenth(
    toy: Path, gain: float, shares: dict[str, int]
) -> None:
    measure = Measure(gain)
    for _ in range(2):
        assert share_cores(toy, 4, {}, measure=measure) == shares
    assert measure.calls == [4]


@pytest.mark.parametrize(
    ("streams", "options"),
    [
        (3, {}),  # a core would be idle
        (4, {"threads": 2}),
        (4, {"parallel": 1}),
        (4, {"device": "GPU"}),
        (4, {"backend": "tensorrt"}),
        (4, {"backend": "cuda"}),
    ],
)
def test_nothing_is_measured_without_a_choice(
    toy: Path, streams: int, options: dict[str, Any]
) -> None:
    measure = Measure(2.0)
    assert share_cores(toy, streams, options, measure=measure) == {}
    assert measure.calls == []


def test_other_options_are_measured_apart(toy: Path) -> None:
    measure = Measure(2.0)
    for options in ({}, {"native": False}, {"backend": "onnxruntime"}, {"native": False}):
        share_cores(toy, 9, options, measure=measure)
    assert len(measure.calls) == 3


def test_both_ways_run(toy: Path) -> None:
    found = measure_shares(toy, {"backend": "onnxruntime"}, 2)
    assert set(found) == {"one", "parallel"}
    assert all(value > 0 for value in found.values())


def test_fleet_opens_with_what_was_chosen(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_shares, "measure_shares", Measure(2.0))
    with streamseg.open_fleet(toy, backend="onnxruntime", expected=4) as fleet:
        assert fleet.stream.parallel == 4
        assert "1 thread," in fleet.stream.execution


def test_graphs_are_read_once_where_the_choice_is_known(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_cores(toy, 4, {"backend": "onnxruntime"}, measure=Measure(2.0))
    read: list[str] = []
    real = Path.read_bytes

    def note(path: Path) -> bytes:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", note)
    whole = sorted(path.name for path in toy.glob("*.onnx"))
    with streamseg.open_fleet(toy, backend="onnxruntime", expected=4) as fleet:
        assert fleet.stream.parallel == 4
    assert whole == sorted(name for name in read if name.endswith(".onnx"))


def test_identity_of_the_manifest_is_that_of_the_files(toy: Path) -> None:
    assert promised_identity(read_manifest(toy)) == read_bundle(toy).identity
