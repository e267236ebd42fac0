from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from streamseg.errors import ExportError
from streamseg.export.checkpoint import load_checkpoint
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.runtime.bundle.state import state_bytes
from tests.export.golden import Golden, read_golden

FIXTURES = ["tv3s_mit_b0_tiny", "tv3s_swin_narrow"]
FULL = BlocksConfig(embed_dim=256, d_inner=512, dt_rank=16)


def published(encoder: str, classes: int = 124) -> TV3S:
    """A network of published size with initial weights."""
    with torch.device("meta"):
        return TV3S(TV3SConfig(ENCODER_PRESETS[encoder], FULL, classes))


@pytest.fixture(params=FIXTURES)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return read_golden(shared, request.param)


@pytest.fixture
def model(golden: Golden, tmp_path: Path) -> TV3S:
    loaded = load_checkpoint(
        golden.save_checkpoint(tmp_path / "x.pth"), settings={"window": 4, "shift": 2}
    )
    assert isinstance(loaded, TV3S)
    return loaded


@pytest.mark.data
def test_steps_match_fixtures_at_every_frame(golden: Golden, model: TV3S) -> None:
    state = list(model.initial_state((96, 128)))
    seen: dict[str, torch.Tensor] = {}
    model.decode_head.linear_pred2.register_forward_hook(
        lambda _module, inputs, output: seen.update(vs_out=inputs[0], logits_map=output)
    )
    model.decode_head.vs.register_forward_hook(
        lambda _module, inputs, _output: seen.update(vs_in=inputs[0][0])
    )
    for i, layer in enumerate(model.decode_head.vs.layers):
        layer.norm.register_forward_hook(
            lambda _module, inputs, _output, i=i: seen.update({f"layer{i}_residual": inputs[0]})
        )
        layer.mixer.register_forward_hook(
            lambda _module, _inputs, output, i=i: seen.update({f"layer{i}_hidden": output[0][0]})
        )
    with torch.no_grad():
        for t, frame in enumerate(golden.frames):
            logits, *state = model(torch.from_numpy(frame)[None], *state)
            compared = {
                "logits": logits,
                "logits_map": seen["logits_map"],
                "inter/vs_in": seen["vs_in"],
                "inter/vs_out": seen["vs_out"],
            }
            for name, found in compared.items():
                assert np.abs(found[0].numpy() - golden.arrays[name][t]).max() < 1e-4, (name, t)
            for i in range(8):
                for part in (f"layer{i}_residual", f"layer{i}_hidden"):
                    expected = golden.arrays[f"inter/{part}"][t].reshape(32, -1).T
                    assert np.abs(seen[part][0].numpy() - expected).max() < 1e-4, (part, t)
                conv = golden.arrays[f"state/conv/layer{i}"][t][..., 1:]
                scan = golden.arrays[f"state/ssm/layer{i}"][t]
                for found, expected in ((state[2 * i], conv), (state[2 * i + 1], scan)):
                    flat = expected.reshape(1, -1, *expected.shape[2:])
                    assert np.abs(found.numpy() - flat).max() < 1e-4, (i, t)


@pytest.mark.data
def test_encoder_and_decoder_match_fixtures(golden: Golden, model: TV3S) -> None:
    for row, t in enumerate((0, len(golden.frames) - 1)):
        frame = torch.from_numpy(golden.frames[t])[None]
        with torch.no_grad():
            maps = model.backbone(model.normalise(frame))
            fused, folded = model.encode(frame), model.fold().encode(frame)
        for level, found in enumerate(maps, start=1):
            expected = golden.arrays[f"inter/c{level}"][row]
            assert np.abs(found[0].numpy() - expected).max() < 1e-4
        for found in (fused, folded):
            assert np.abs(found[0].numpy() - golden.arrays["inter/fused"][row]).max() < 1e-4


@pytest.mark.data
def test_whole_clip_matches_fixtures(golden: Golden, model: TV3S) -> None:
    clip = torch.from_numpy(golden.frames)[None]
    with torch.no_grad():
        scores, auxiliary, _ = model.forward_clip(torch.cat([clip, clip.flip(1)]))
    assert scores.shape == auxiliary.shape
    assert np.abs(scores[0].numpy() - golden.arrays["logits_quarter"]).max() < 1e-4


@pytest.mark.data
def test_lost_state_is_noticed(shared: Path, tmp_path: Path) -> None:
    golden = read_golden(shared, FIXTURES[0])
    model = load_checkpoint(
        golden.save_checkpoint(tmp_path / "x.pth"), settings={"window": 4, "shift": 2}
    )
    empty = model.initial_state((96, 128))
    with torch.no_grad():
        logits, *_ = model(torch.from_numpy(golden.frames[1])[None], *empty)
    assert np.abs(logits[0].numpy() - golden.arrays["logits"][1]).max() > 1


@pytest.mark.parametrize(
    ("encoder", "parameters"),
    [
        ("mit_b1", 17_261_364),
        ("mit_b2", 28_306_228),
        ("mit_b5", 85_552_948),
        ("swin_t", 31_737_134),
        ("swin_s", 53_055_038),
    ],
)
def test_parameter_counts(encoder: str, parameters: int) -> None:
    model = published(encoder)
    assert sum(entry.numel() for entry in model.parameters()) == parameters
    unused = [model.decode_head.linear_pred, model.decode_head.conv_seg]
    assert sum(p.numel() for layer in unused for p in layer.parameters()) == 47_864


def test_state_bytes_of_the_published_network() -> None:
    assert state_bytes(published("mit_b1").state_spec((512, 1024))) == 10_584_064


def test_size_is_checked() -> None:
    model = published("mit_b1")
    assert model.check_size((640, 960)) == []
    (warning,) = model.check_size((512, 1024))
    assert "80x140" in warning
    with pytest.raises(ExportError, match="size 16x64 is not possible: encoder mit_b1 needs"):
        model.check_size((16, 64))
