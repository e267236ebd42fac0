"""Bundles of every family and precision in OpenVINO, compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamseg
from streamseg.export import export_bundle
from streamseg.export.parity import moving_pattern
from tests.conftest import NO_OPENVINO
from tests.export import tiny

pytestmark = NO_OPENVINO

FRAMES = moving_pattern(tiny.SIZE, 6)
# Largest difference of logits as a share of the largest logit.
LIMITS = {"fp32": 1e-4, "fp16": 2e-2}
TV3S = [name for name in tiny.FAMILIES if name.startswith("tv3s")]


def run(path: Path, **opening: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Logits and labels of every frame, and the state at the end."""
    with streamseg.open(path, threads=1, **opening) as stream:
        rng = np.random.default_rng(1)
        for spec in stream.manifest.state:
            if spec.kind == "given":
                stream.give(spec.name, rng.standard_normal(spec.shape).astype(spec.dtype))
        pairs = [step(stream, frame) for frame in FRAMES]
        return (
            [entry[0] for entry in pairs],
            [entry[1] for entry in pairs],
            stream.snapshot().tensors,
        )


def step(stream: streamseg.Stream, frame: Any) -> tuple[Any, Any]:
    """Logits and labels of the next frame."""
    result = stream.step(frame)
    return np.copy(result.logits), result.labels


def compare(path: Path, limit: float, *, native: bool | None = None) -> None:
    wanted = run(path, backend="onnxruntime", native=native)
    found = run(path, backend="openvino", precision="fp32", native=native)
    for got, want in zip(found[0], wanted[0], strict=True):
        assert np.abs(got - want).max() <= limit * np.abs(want).max()
    for got, want in zip(found[1], wanted[1], strict=True):
        assert (got == want).mean() > 1 - limit
    assert set(found[2]) == set(wanted[2])
    for name, want in wanted[2].items():
        got = found[2][name].astype(np.float64)
        assert np.abs(got - want).max() <= limit * max(np.abs(want).max(), 1e-3), name


@pytest.mark.parametrize(
    ("family", "precision"),
    [*((name, "fp32") for name in tiny.FAMILIES), ("tv3s", "fp16"), ("mpvss", "fp16")],
)
def test_every_family_follows_onnxruntime(
    tiny_bundle: Callable[[str, str], Path], family: str, precision: str
) -> None:
    compare(tiny_bundle(family, precision), LIMITS[precision])


@pytest.mark.parametrize("family", TV3S)
def test_lowering_follows_onnxruntime(tiny_bundle: Callable[[str, str], Path], family: str) -> None:
    compare(tiny_bundle(family, "fp32"), LIMITS["fp32"], native=False)


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 2e-2), ("int8-dynamic", 2e-2)])
def test_fused_operators_follow_onnxruntime(tmp_path: Path, precision: str, limit: float) -> None:
    """The same kernels run in both, so only the float32 around them differs; or the lowerings."""
    export_bundle(
        tiny.build("tv3s"), tmp_path / "b", size=tiny.SIZE, logits=True, precision=precision
    )
    compare(tmp_path / "b", limit, native=True)
    compare(tmp_path / "b", LIMITS["fp32"], native=False)


@pytest.mark.parametrize("family", ["tv3s", "cffm", "mpvss"])
def test_restored_state_gives_the_same_bits(
    tiny_bundle: Callable[[str, str], Path], family: str
) -> None:
    path = tiny_bundle(family, "fp32")
    with streamseg.open(path, backend="openvino", threads=1) as stream:
        for frame in FRAMES[:3]:
            stream.step(frame)
        kept = stream.snapshot()
        first = [step(stream, frame)[0] for frame in FRAMES[3:]]
        stream.restore(kept)
        again = [step(stream, frame)[0] for frame in FRAMES[3:]]
        for got, want in zip(again, first, strict=True):
            assert np.array_equal(got, want)
        sibling = stream.sibling()
        stream.reset()
        alone = step(stream, FRAMES[0])[0]
        assert np.array_equal(step(sibling, FRAMES[0])[0], alone)


def test_snapshot_moves_between_backends(tiny_bundle: Callable[[str, str], Path]) -> None:
    path = tiny_bundle("tv3s", "fp32")
    with streamseg.open(path, backend="onnxruntime", threads=1) as first:
        for frame in FRAMES[:3]:
            first.step(frame)
        kept = first.snapshot()
        wanted = step(first, FRAMES[3])[0]
    with streamseg.open(path, backend="openvino", precision="fp32", threads=1) as second:
        second.restore(kept)
        assert np.abs(step(second, FRAMES[3])[0] - wanted).max() < 1e-4
