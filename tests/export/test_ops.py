"""The windowed ops against the fixtures, against themselves step by step, and their gradients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamseg.export import ops
from streamseg.export.models.mamba import BlocksConfig, TemporalBlocks
from streamseg.export.windows import WindowGeometry
from tests.export.test_windows import geometries

CASES = [
    "w4s2", "w5s2_odd", "w7s3_odd", "w6s3", "w3s1", "w4s1_b2", "w4s3", "h4w6s2_rect", "w20s10",
]  # fmt: skip


def place(geometry: WindowGeometry) -> tuple[int, ...]:
    return (
        geometry.map_h, geometry.map_w, geometry.window_h,
        geometry.window_w, geometry.offset_h, geometry.offset_w,
    )  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("case", CASES)
def test_scan_blocks_match_fixtures(shared: Path, case: str) -> None:
    with np.load(shared / "golden" / "tv3s_scan_blocks.npz") as file:
        sizes = json.loads(str(file["config"]))[case]
        arrays = {
            key.removeprefix(f"{case}/"): torch.from_numpy(file[key]).double()
            for key in file.files
            if key.startswith(f"{case}/")
        }
    config = BlocksConfig(
        embed_dim=sizes["embed_dim"], layers=sizes["n_layers"], d_inner=sizes["d_inner"],
        dt_rank=sizes["dt_rank"], window=(sizes["window_h"], sizes["window_w"]),
        shift=(sizes["shift"], sizes["shift"]),
    )  # fmt: skip
    blocks = TemporalBlocks(config).double()
    blocks.load_state_dict(
        {k.removeprefix("param/"): v for k, v in arrays.items() if k.startswith("param/")}
    )
    batch, length = sizes["B"], sizes["T"]
    table = config.state_spec((sizes["H"], sizes["W"]))
    empty = [torch.zeros(batch, *spec.shape[1:], dtype=torch.float64) for spec in table]
    frames = list(arrays["input"].unbind(1))
    with torch.no_grad():
        clip, clip_state = blocks(frames, empty)
        state = empty
        for t in range(length):
            (output,), state = blocks([frames[t]], state)
            assert (output - arrays["output"][:, t]).abs().max() < 5e-6
            assert (output - clip[t]).abs().max() < 1e-12
            for i in range(config.layers):
                conv = arrays[f"state/conv/layer{i}"][t].flatten(1, 2)[..., 1:]
                scan = arrays[f"state/ssm/layer{i}"][t].flatten(1, 2)
                assert (state[2 * i] - conv).abs().max() < 5e-6
                assert (state[2 * i + 1] - scan).abs().max() < 5e-6
    for stepped, whole in zip(state, clip_state, strict=True):
        assert (stepped - whole).abs().max() < 1e-12


def random_blocks(geometry: WindowGeometry, seed: int) -> tuple[TemporalBlocks, Tensor]:
    torch.manual_seed(seed)
    offset = (geometry.offset_h, geometry.offset_w)
    config = BlocksConfig(
        embed_dim=6, layers=2, d_inner=8, d_state=3, d_conv=3, dt_rank=2,
        window=(geometry.window_h, geometry.window_w), shift=offset,
    )  # fmt: skip
    frames = torch.randn(3, 2, 6, geometry.map_h, geometry.map_w, dtype=torch.float64)
    return TemporalBlocks(config).double(), frames


@given(geometries(), st.integers(0, 99))
@settings(max_examples=25)
def test_steps_equal_whole_clip(geometry: WindowGeometry, seed: int) -> None:
    blocks, frames = random_blocks(geometry, seed)
    table = blocks.config.state_spec((geometry.map_h, geometry.map_w))
    state = [torch.zeros(2, *spec.shape[1:], dtype=torch.float64) for spec in table]
    with torch.no_grad():
        clip, after = blocks(list(frames), state)
        for t, frame in enumerate(frames):
            (output,), state = blocks([frame], state)
            assert (output - clip[t]).abs().max() < 1e-12
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(state, after, strict=True))


def conv_arguments(geometry: WindowGeometry, taps: int, dtype: torch.dtype) -> list[Tensor]:
    channels = 3
    shapes = [
        (2, geometry.tokens, channels), (channels, taps), (channels,),
        (2, geometry.cells, channels, taps - 1),
    ]  # fmt: skip
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def scan_arguments(geometry: WindowGeometry, dtype: torch.dtype) -> list[Tensor]:
    tokens, channels, states = geometry.tokens, 3, 2
    shapes = [
        (2, tokens, channels), (2, tokens, channels), (channels,), (channels, states),
        (2, tokens, states), (2, tokens, states), (channels,), (2, tokens, channels),
        (2, geometry.cells, channels, states),
    ]  # fmt: skip
    arguments = [torch.randn(shape, dtype=dtype) for shape in shapes]
    arguments[3] = -arguments[3].abs()
    return arguments


SMALL = WindowGeometry(4, 5, 3, 2, 1, 1)


@pytest.mark.parametrize("taps", [2, 4])
def test_conv_passes_opcheck_and_gradcheck(taps: int) -> None:
    torch.manual_seed(0)
    arguments = conv_arguments(SMALL, taps, torch.float64)
    torch.library.opcheck(ops.windowed_causal_conv, (*arguments, *place(SMALL)))
    inputs = [tensor.requires_grad_() for tensor in arguments]
    assert torch.autograd.gradcheck(
        lambda *tensors: ops.windowed_causal_conv(*tensors, *place(SMALL)), inputs
    )


def test_scan_passes_opcheck_and_gradcheck() -> None:
    torch.manual_seed(0)
    arguments = scan_arguments(SMALL, torch.float64)
    torch.library.opcheck(ops.windowed_selective_scan, (*arguments, *place(SMALL)))
    inputs = [tensor.requires_grad_() for tensor in arguments]
    assert torch.autograd.gradcheck(
        lambda *tensors: ops.windowed_selective_scan(*tensors, *place(SMALL)), inputs
    )


def test_ops_leave_their_state_input_alone() -> None:
    torch.manual_seed(0)
    conv, scan = conv_arguments(SMALL, 4, torch.float32), scan_arguments(SMALL, torch.float32)
    before = conv[3].clone(), scan[8].clone()
    after = ops.windowed_causal_conv(*conv, *place(SMALL))[1]
    moved = ops.windowed_selective_scan(*scan, *place(SMALL))[1]
    assert torch.equal(conv[3], before[0])
    assert torch.equal(scan[8], before[1])
    assert not torch.equal(after, before[0])
    assert not torch.equal(moved, before[1])


def test_upsample_argmax_takes_the_lowest_class_of_a_tie() -> None:
    scores = torch.zeros(1, 4, 3, 5)
    scores[:, 2:] = 1
    labels = ops.upsample_argmax(scores, 7, 9)
    assert labels.shape == (1, 7, 9)
    assert labels.dtype == torch.uint8
    assert (labels == 2).all()
