"""A memory around a network without one, against the same arithmetic in plain NumPy."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import streamseg
from streamseg.errors import ExportError
from streamseg.export import export_bundle
from streamseg.export.parity import moving_pattern
from streamseg.export.smoothing import PRESETS, SmoothingConfig, follow, remember
from tests.export import tiny

FRAMES = moving_pattern(tiny.SIZE, 6)


def box(maps: np.ndarray, window: int) -> np.ndarray:
    """Mean over existing cells, by OpenCV."""
    count = cv2.boxFilter(np.ones_like(maps), -1, (window,) * 2, normalize=False, borderType=0)
    return cv2.boxFilter(maps, -1, (window,) * 2, normalize=False, borderType=0) / count


def expected(scores: list[np.ndarray], config: SmoothingConfig) -> list[np.ndarray]:
    """Gated smoothing of scores ``[K, h, w]``."""
    mixed = image = None
    results = []
    for frame, score in zip(FRAMES, scores, strict=True):
        new = score - np.log(np.exp(score).sum(0))
        size = score.shape[1:]
        small = cv2.resize(frame.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        if mixed is None:
            mixed = new
        else:
            change = box(np.abs(small - image).mean(2), 3)
            gate = np.clip((change - config.slack) / config.change, 0, 1)
            weight = config.weight * np.exp(new.max(0)) + (1 - config.weight) * gate
            mixed = mixed + np.clip(weight, 0.02, 1) * (new - mixed)
        image = small
        results.append(mixed)
    return results


@pytest.mark.parametrize("family", ["segformer", "tv3s"])
def test_gated_memory_is_the_published_arithmetic(family: str, tmp_path: Path) -> None:
    base = tiny.build(family)
    config = SmoothingConfig(weight=0.2, slack=1.0, change=90.0)
    export_bundle(remember(base, config), tmp_path / "bundle", size=tiny.SIZE, logits=True)
    with torch.no_grad():
        state = base.initial_state(tiny.SIZE)
        scores = [base.score(torch.from_numpy(f)[None], *state)[0][0].numpy() for f in FRAMES]
    wanted = expected(scores, config)
    with streamseg.open(tmp_path / "bundle") as stream:
        for frame, logits in zip(FRAMES, wanted, strict=True):
            result = stream.step(frame)
            full = torch.nn.functional.interpolate(
                torch.from_numpy(logits)[None], size=tiny.SIZE, mode="bilinear"
            )
            np.testing.assert_allclose(result.logits, full[0].numpy(), atol=2e-3)
        assert [spec.name for spec in stream.manifest.state] == ["memory"]
    assert np.abs(wanted[-1] - wanted[0]).max() > 0.01


@pytest.mark.parametrize("motion", [(0, 0), (2, -1), (-3, 3), (0, 2)])
def test_memory_follows_a_picture_that_moves(motion: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (1, 3, 24, 32)).astype(np.float32)
    moved = np.roll(picture, motion, (2, 3))
    content = random.standard_normal((1, 5, 24, 32)).astype(np.float32)
    memory = np.concatenate([content, picture, np.ones((1, 1, 24, 32), np.float32)], 1)
    got = follow(torch.from_numpy(memory), torch.from_numpy(moved), SmoothingConfig("warped"))
    inner = np.s_[:, :, 6:-6, 6:-6]
    np.testing.assert_array_equal(
        got.numpy()[:, :5][inner], np.roll(content, motion, (2, 3))[inner]
    )
    assert (got[:, -1] == 1)[:, 6:-6, 6:-6].all()


def test_warped_memory_exports_and_streams(tmp_path: Path) -> None:
    model = remember(tiny.build("segformer"), PRESETS["warped"])
    report = export_bundle(model, tmp_path / "bundle", size=tiny.SIZE)
    assert report.parity["state_max_abs"] < 1e-3
    with streamseg.open(tmp_path / "bundle") as stream:
        assert stream.manifest.model["memory"]["kind"] == "warped"
        stream.step(FRAMES[0])


def test_networks_of_several_graphs_and_wrong_settings_are_refused() -> None:
    with pytest.raises(ExportError, match="several graphs"):
        remember(tiny.build("mpvss"), PRESETS["gated"])
    with pytest.raises(ExportError, match="memory is 'flow', expected one of gated, warped"):
        SmoothingConfig("flow")
    with pytest.raises(ExportError, match="0 < weight <= 1"):
        SmoothingConfig(weight=0)
