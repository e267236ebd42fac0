"""The stream over a bundle with all three kinds of state, against NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamseg
from streamseg.errors import (
    BackendError,
    BundleError,
    FrameMismatch,
    PluginNotFound,
    StateMismatch,
    StreamsegError,
)
from streamseg.runtime.backends.interface import plan_step
from streamseg.runtime.bundle.bundle import digest
from streamseg.runtime.bundle.state import StateSnapshot
from tests.runtime.toy import HEIGHT, WIDTH, ToyReference, toy_graph, write_toy_bundle


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


def frames(count: int, seed: int = 0) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    random = np.random.default_rng(seed)
    return list(random.integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8))


def run(stream: streamseg.Stream, images: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    return [np.copy(stream.step(image).logits) for image in images]


def test_carry_ring_and_key_match_numpy(toy: Path) -> None:
    reference = ToyReference()
    with streamseg.open(toy) as stream:
        for t, image in enumerate(frames(23)):
            result = stream.step(image)
            expected = reference.step(image)
            assert result.step == t
            np.testing.assert_allclose(result.logits, expected, rtol=0, atol=1e-6, err_msg=str(t))
            assert (result.labels == result.logits.argmax(0)).all()


def test_plans_recur(toy: Path) -> None:
    with streamseg.open(toy) as stream:
        plans = {plan_step(stream.manifest, t) for t in range(100)}
    # Two warm-up steps, then the ring's 3 phases x the carry's 2, for each of two graphs whose
    # alternation (every 4) is in step with the carry.
    assert len(plans) == 2 + 6 + 3


@given(st.integers(0, 12), st.integers(1, 9), st.integers(0, 9))
@settings(max_examples=20)
def test_restored_stream_continues_bit_for_bit(
    toy: Path, before: int, after: int, apart: int
) -> None:
    images = frames(before + after, seed=before)
    with streamseg.open(toy) as stream:
        run(stream, images[:before])
        saved = stream.snapshot()
        expected = run(stream, images[before:])
        run(stream, frames(apart, seed=99))
        stream.restore(saved)
        assert stream.steps == before
        assert np.array_equal(run(stream, images[before:]), expected)
        with stream.sibling() as other:
            other.restore(saved)
            assert np.array_equal(run(other, images[before:]), expected)


@given(st.integers(0, 9))
@settings(max_examples=10)
def test_reset_equals_fresh_start(toy: Path, before: int) -> None:
    images = frames(7, seed=1)
    with streamseg.open(toy) as stream:
        fresh = run(stream, images)
        run(stream, frames(before, seed=2))
        stream.reset()
        assert np.array_equal(run(stream, images), fresh)


def test_siblings_keep_their_states_apart(toy: Path) -> None:
    first, second = frames(9, seed=3), frames(9, seed=4)
    with streamseg.open(toy) as stream:
        alone = run(stream, first), run(stream.sibling(), second)
        stream.reset()
        other = stream.sibling()
        mixed = [
            (np.copy(stream.step(a).logits), np.copy(other.step(b).logits))
            for a, b in zip(first, second, strict=True)
        ]
    assert np.array_equal([pair[0] for pair in mixed], alone[0])
    assert np.array_equal([pair[1] for pair in mixed], alone[1])


def test_labels_come_back_at_the_size_of_the_frame(toy: Path) -> None:
    with streamseg.open(toy) as stream:
        for size in ((6, 8), (12, 16), (3, 5), (6, 8)):
            labels = stream.step(np.full((*size, 3), 7, np.uint8)).labels
            assert labels.shape == size
            assert labels.dtype == np.uint8


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((6, 8), np.uint8),
        np.zeros((6, 8, 4), np.uint8),
        np.zeros((6, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        "frame.png",
    ],
)
def test_other_frames_are_refused(toy: Path, frame: Any) -> None:
    with streamseg.open(toy) as stream, pytest.raises(FrameMismatch, match="expected"):
        stream.step(frame)


def test_snapshot_of_another_model_is_refused(toy: Path) -> None:
    with streamseg.open(toy) as stream:
        saved = stream.snapshot()
        with pytest.raises(StateMismatch, match="is of model"):
            stream.restore(StateSnapshot(saved.step, saved.tensors, "0" * 64))
        fewer = {name: value for name, value in saved.tensors.items() if name != "past"}
        with pytest.raises(StateMismatch, match="these tensors: past"):
            stream.restore(StateSnapshot(saved.step, fewer, saved.model))
        narrow = {**saved.tensors, "trace": saved.tensors["trace"][..., :-1]}
        with pytest.raises(StateMismatch, match=r"'trace' is float32 \[1, 1, 6, 7\]"):
            stream.restore(StateSnapshot(saved.step, narrow, saved.model))


def test_closed_stream_is_reported(toy: Path) -> None:
    stream = streamseg.open(toy)
    stream.close()
    stream.close()
    with pytest.raises(StreamsegError, match="closed"):
        stream.step(frames(1)[0])


def test_native_true_requires_the_library(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginNotFound):
        streamseg.open(toy, native=True, library=tmp_path / "absent.so")
    with streamseg.open(toy, native=False) as stream:
        assert "lowering" in stream.execution


def test_unknown_backend_and_threads_are_refused(toy: Path) -> None:
    with pytest.raises(BackendError, match="'cray' is unknown; available: auto"):
        streamseg.open(toy, backend="cray")
    with pytest.raises(BackendError, match="threads is 0"):
        streamseg.open(toy, threads=0)


def replace_graph(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = digest(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_graph_with_other_names_is_refused(tmp_path: Path) -> None:
    toy = write_toy_bundle(tmp_path / "toy")
    renamed = toy_graph(key=False, rename={"trace.in": "old", "trace.out": "new"})
    replace_graph(toy, "step.onnx", renamed)
    with pytest.raises(BundleError, match=r"inputs: old, trace\.in"):
        streamseg.open(toy)


def test_graph_with_other_shapes_is_refused(tmp_path: Path) -> None:
    toy = write_toy_bundle(tmp_path / "toy")
    manifest = json.loads((toy / "manifest.json").read_text())
    manifest["state"][0]["shape"] = [1, 1, 6, 9]
    (toy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"'trace\.in' is tensor\(float\) \[1, 1, 6, 8\]"):
        streamseg.open(toy)


def test_graph_that_is_not_onnx_is_rejected(tmp_path: Path) -> None:
    toy = write_toy_bundle(tmp_path / "toy")
    replace_graph(toy, "step.onnx", b"nonsense")
    with pytest.raises(BundleError, match=r"step\.onnx is not a valid ONNX file"):
        streamseg.open(toy)


def test_confidence_is_the_probability_of_the_label(toy: Path) -> None:
    with streamseg.open(toy) as stream:
        with pytest.raises(StreamsegError, match="no frame was segmented yet"):
            stream.confidence()
        for image in frames(5):
            result = stream.step(image.repeat(2, axis=0))
            assert result.logits is not None
            odds = np.exp(result.logits.astype(float))
            expected = (odds / odds.sum(0)).max(0).repeat(2, axis=0)
            labels = result.labels.copy()
            seen = stream.confidence()
            assert seen.shape == (2 * HEIGHT, WIDTH)
            np.testing.assert_allclose(seen / 255, expected, atol=0.51 / 255)
            assert np.array_equal(result.labels, labels)


def test_confidence_needs_logits(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with streamseg.open(toy) as stream:
        stream.step(frames(1)[0])
        monkeypatch.setattr(stream._lane, "read_logits", lambda: None)
        with pytest.raises(StreamsegError, match="export it again with --logits"):
            stream.confidence()
