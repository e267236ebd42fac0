"""Mask2Former and MPVSS against the fixture: key and propagate graphs, state, schedule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import streamseg
from streamseg.errors import CheckpointError, ExportError
from streamseg.export import export_bundle, load_checkpoint, save_checkpoint
from streamseg.export.models.attention import position_code
from streamseg.export.models.mask2former import (
    BLOCKED,
    Mask2Former,
    Mask2FormerConfig,
    attention_bias,
    score_strips,
)
from streamseg.export.models.motion import warp
from streamseg.export.models.mpvss import MPVSS, MPVSSConfig
from streamseg.export.models.pixels import DeformableAttention, PixelSizes
from streamseg.export.models.resnet import RESNET_PRESETS, ResNetSizes
from streamseg.export.models.swin import SwinSizes
from streamseg.export.torch_replay import Replay
from streamseg.runtime.bundle.state import StateSnapshot
from tests.conftest import CPU_OPENINGS

from .golden import Golden, read_golden

SIZE = (160, 285)
# Per README_mpvss.md.
FLOW_LIMIT, MASK_LIMIT, SCORE_LIMIT = 1e-4, 1e-3, 2e-4
LABEL_SHARE = 2e-4
BUNDLE_LIMIT = 5e-4
SCORED = (0, 1, 4)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return read_golden(shared, "mpvss_resnet50_reduced")


@pytest.fixture(scope="module")
def model(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> MPVSS:
    path = golden.save_checkpoint(tmp_path_factory.mktemp("mpvss") / "model.pth")
    found = load_checkpoint(path)
    assert isinstance(found, MPVSS)
    return found


@pytest.fixture(scope="module")
def bundle(model: MPVSS, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mpvss") / "bundle"
    report = export_bundle(model, path, size=SIZE, logits=True)
    assert set(json.loads((path / "manifest.json").read_text())["graphs"]) == {"key", "propagate"}
    assert report.parity["state_max_abs"] < BUNDLE_LIMIT
    return path


def images(golden: Golden) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    return [np.ascontiguousarray(f.transpose(1, 2, 0)) for f in golden.arrays["frames"]]


def check(scores: np.ndarray[Any, Any], golden: Golden, t: int, limit: float) -> None:
    if t in SCORED:
        assert np.abs(scores - golden.arrays[f"f{t}/sem_seg"]).max() < limit, t
    differing = (scores.argmax(0) != golden.arrays[f"f{t}/argmax"]).mean()
    assert differing <= LABEL_SHARE, (t, differing)


@pytest.mark.data
def test_every_frame_matches(model: MPVSS, golden: Golden) -> None:
    replay = Replay(model, SIZE)
    with torch.no_grad():
        for t, image in enumerate(images(golden)):
            scores = replay.scores(torch.from_numpy(image)[None])[0]
            check(scores.numpy(), golden, t, SCORE_LIMIT)


@pytest.mark.data
def test_key_state_and_flows_match(model: MPVSS, golden: Golden) -> None:
    frames = [torch.from_numpy(image)[None] for image in images(golden)]
    arrays = {name: torch.from_numpy(golden.arrays[name]) for name in golden.arrays if "/" in name}
    with torch.no_grad():
        _, key_image, query, masks, classes = model.run_graph("key", frames[0])
        assert (masks - arrays["state/pred_masks"]).abs().max() < MASK_LIMIT
        assert (classes - arrays["state/class_prob"]).abs().max() < SCORE_LIMIT
        assert (query[0] - arrays["state/query"][:, 0]).abs().max() < SCORE_LIMIT
        for t in range(1, 5):
            pair = torch.cat([model.flow_image(frames[t]), key_image], dim=1)
            flow = model.motion(pair, query)
            assert (flow - arrays[f"f{t}/flow"]).abs().max() < FLOW_LIMIT
            assert (warp(masks, flow) - arrays[f"f{t}/warped_masks"]).abs().max() < MASK_LIMIT


@pytest.mark.data
@pytest.mark.parametrize("opening", CPU_OPENINGS[::2])
def test_bundle_matches_and_keys_come_every_fifth_frame(
    bundle: Path, golden: Golden, opening: dict[str, Any]
) -> None:
    frames = images(golden)
    with streamseg.open(bundle, threads=1, **opening) as stream:
        for round_ in range(2):
            for t, image in enumerate(frames):
                result = stream.step(image)
                assert result.step == 5 * round_ + t
                assert result.logits is not None
                check(result.logits, golden, t, BUNDLE_LIMIT)
                clear = np.sort(result.logits, axis=0)
                sure = clear[-1] - clear[-2] > BUNDLE_LIMIT
                assert sure.mean() > 0.95
                assert np.array_equal(result.labels[sure], result.logits.argmax(0)[sure])


@pytest.mark.data
@pytest.mark.parametrize("lost", ["image", "query", "masks", "classes"])
def test_lost_key_state_is_noticed(bundle: Path, golden: Golden, lost: str) -> None:
    frames = images(golden)
    with streamseg.open(bundle, native=False, threads=1) as stream:
        stream.step(frames[0])
        saved = stream.snapshot()
        stream.restore(saved)
        kept = stream.step(frames[1]).logits
        assert kept is not None
        check(kept, golden, 1, BUNDLE_LIMIT)
        tensors = {**saved.tensors, lost: np.zeros_like(saved.tensors[lost])}
        stream.restore(StateSnapshot(saved.step, tensors, saved.model))
        found = stream.step(frames[1]).logits
        assert found is not None
        with pytest.raises(AssertionError):
            check(found, golden, 1, BUNDLE_LIMIT)


@pytest.mark.data
def test_propagating_too_long_is_noticed(bundle: Path, golden: Golden, tmp_path: Path) -> None:
    target = tmp_path / "late"
    target.mkdir()
    for file in bundle.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["schedule"][1]["every"] = 6
    (target / "manifest.json").write_text(json.dumps(manifest))
    with streamseg.open(target, native=False, threads=1) as stream:
        for image in images(golden):
            stream.step(image)
        late = stream.step(images(golden)[0]).logits
        assert late is not None
        with pytest.raises(AssertionError):
            check(late, golden, 0, BUNDLE_LIMIT)


@pytest.mark.data
def test_graphs_are_static_and_plain(bundle: Path) -> None:
    for name in ("key", "propagate"):
        graph = onnx.load(bundle / f"{name}.onnx").graph
        found = {node.op_type for node in graph.node}
        assert not found & {"If", "Loop", "Scan", "NonZero", "Unique", "Shape", "Range"}
        for value in (*graph.input, *graph.output):
            assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)


@pytest.mark.data
def test_incomplete_and_misnamed_checkpoints_are_refused(golden: Golden, tmp_path: Path) -> None:
    path = golden.save_checkpoint(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="is a mpvss checkpoint, not mask2former"):
        load_checkpoint(path, family="mask2former")
    with pytest.raises(CheckpointError, match="key_interval is 1"):
        load_checkpoint(path, settings={"key_interval": 1})
    cut = {k: v for k, v in golden.weights.items() if "fuse_layer" not in k}
    torch.save(cut, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"missing: motion\.decoder\.fuse_layer"):
        load_checkpoint(tmp_path / "cut.pth")


def test_parameter_count_is_the_published_one() -> None:
    with torch.device("meta"):
        model = MPVSS(MPVSSConfig(RESNET_PRESETS["resnet50"], num_classes=124))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 84.1


TINY = Mask2FormerConfig(
    SwinSizes(24, (1, 1, 1, 1), (1, 2, 3, 6)),
    num_classes=3,
    pixels=PixelSizes(width=32, mask_width=16, layers=1, inner=32),
    width=64,
    layers=3,
    inner=32,
    queries=5,
)


@pytest.mark.parametrize("encoder", [TINY.encoder, ResNetSizes((1, 1, 1, 1), 8, 8, 32)])
def test_mask2former_is_imported_and_exported(encoder: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mask2Former(replace(TINY, encoder=encoder))
    save_checkpoint(model, tmp_path / "model.safetensors")
    again = load_checkpoint(tmp_path / "model.safetensors")
    assert isinstance(again, Mask2Former)
    assert again.config == model.config
    report = export_bundle(again, tmp_path / "bundle", size=(70, 96), logits=True)
    assert report.parity["logits_max_abs"] < BUNDLE_LIMIT
    with pytest.raises(ExportError, match="at least 32x32"):
        again.check_size((16, 64))


@pytest.mark.parametrize("rows", [4, 7, 100])
def test_strips_are_the_whole_map(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    masks, classes = torch.randn(1, 6, 24, 20), torch.rand(1, 6, 4)
    monkeypatch.setattr("streamseg.export.models.mask2former.STRIP_ELEMENTS", 6 * 20 * 16 * rows)
    strips = score_strips(masks, classes, (90, 75))
    assert len(strips) == -(-24 // rows)
    full = torch.nn.functional.interpolate(masks, scale_factor=4, mode="bilinear").sigmoid()
    want = torch.einsum("bqk,bqhw->bkhw", classes, full)[:, :, :90, :75]
    assert (torch.cat(strips, dim=2) - want).abs().max() < 1e-5


def test_sampling_in_pieces_is_sampling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(16)
    sizes = [(2, 3), (4, 5), (6, 7)]
    query, tokens = torch.randn(1, 68, 16), torch.randn(1, 68, 16)
    references = torch.rand(68, 2)
    with torch.no_grad():
        whole = attention(query, tokens, references, sizes)
        monkeypatch.setattr("streamseg.export.models.pixels.PIECE", 9)
        pieces = attention(query, tokens, references, sizes)
    assert (pieces - whole).abs().max() < 1e-6


def test_queries_masked_everywhere_attend_everywhere() -> None:
    masks = torch.full((1, 2, 4, 4), -3.0)
    masks[0, 1, :2] = 3.0
    bias = attention_bias(masks, (2, 2))
    assert torch.equal(bias[0, 0], torch.zeros(4))
    assert torch.equal(bias[0, 1], torch.tensor([0.0, 0.0, BLOCKED, BLOCKED]))
    assert torch.isfinite(bias.half()).all()


def test_zero_flow_shrinks_as_published() -> None:
    columns = torch.arange(8.0).expand(1, 1, 4, 8)
    moved = warp(columns, torch.zeros(1, 2, 2, 4))
    assert torch.allclose(moved[0, 0, 0], torch.arange(8.0) * 7 / 8, atol=1e-5)


def test_position_code_has_y_before_x() -> None:
    code = position_code(2, 3, 8).reshape(2, 3, 8)
    assert torch.equal(code[0, 0, :4], code[0, 2, :4])
    assert torch.equal(code[0, 1, 4:], code[1, 1, 4:])
    assert not torch.equal(code[0, 0, :4], code[1, 0, :4])
