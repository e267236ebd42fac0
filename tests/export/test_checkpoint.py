from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from streamseg.errors import CheckpointError
from streamseg.export import load_checkpoint, save_checkpoint
from streamseg.export.checkpoint import published_weights
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.mit import MiTConfig
from streamseg.export.models.swin import SwinSizes
from streamseg.export.models.tv3s import TV3S, TV3SConfig

BLOCKS = BlocksConfig(
    embed_dim=8, layers=2, d_inner=16, d_state=4, d_conv=3, dt_rank=1, window=(4, 4), shift=(2, 2)
)
MIT = TV3SConfig(MiTConfig((8, 16, 40, 64), (1, 1, 1, 1)), BLOCKS, 3, auxiliary_width=4)
SWIN = TV3SConfig(SwinSizes(8, (1, 1, 2, 1), (1, 2, 4, 8), window=3), BLOCKS, 3, auxiliary_width=4)


def tiny(config: TV3SConfig = MIT) -> TV3S:
    torch.manual_seed(0)
    return TV3S(config)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return published_weights(tiny())


@pytest.mark.parametrize("config", [MIT, SWIN], ids=["mit", "swin"])
@pytest.mark.parametrize("layout", ["mmcv", "bare", "wrapped", "half", "safetensors"])
def test_layouts_restore_the_model(config: TV3SConfig, layout: str, tmp_path: Path) -> None:
    model = tiny(config)
    weights = published_weights(model)
    path = tmp_path / "x.pth"
    if layout == "safetensors":
        path = tmp_path / "x.safetensors"
        save_checkpoint(model, path)
    elif layout == "mmcv":
        torch.save({"meta": {"epoch": 1}, "state_dict": weights}, path)
    elif layout == "wrapped":
        torch.save({"module." + key: value for key, value in weights.items()}, path)
    elif layout == "half":
        torch.save({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)
    else:
        torch.save(weights, path)
    loaded = load_checkpoint(path, settings={"window": 4, "shift": 2})
    assert isinstance(loaded, TV3S)
    assert loaded.config == config
    limit = 2e-3 if layout == "half" else 0
    for key, value in loaded.state_dict().items():
        assert (value.float() - model.state_dict()[key].float()).abs().max() <= limit, key


def test_classes_come_from_meta(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    meta = {"CLASSES": ("road", "car", "sky"), "PALETTE": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    torch.save({"meta": meta, "state_dict": weights}, tmp_path / "x.pth")
    model = load_checkpoint(tmp_path / "x.pth", settings={"window": 4, "shift": 2})
    assert [(c.name, c.color) for c in model.classes][1] == ("car", (4, 5, 6))
    described = {key: json.dumps(value) for key, value in meta.items()}
    save_file(weights, tmp_path / "x.safetensors", metadata=described)
    assert (
        load_checkpoint(tmp_path / "x.safetensors", settings={"window": 4, "shift": 2}).classes
        == model.classes
    )


def test_ignored_keys_are_listed(tmp_path: Path) -> None:
    weights = published_weights(tiny(SWIN))
    index = "backbone.layers.0.blocks.0.attn.relative_position_index"
    torch.save({**weights, index: torch.zeros(9, 9, dtype=torch.int64)}, tmp_path / "x.pth")
    assert (
        index
        in load_checkpoint(tmp_path / "x.pth", settings={"window": 4, "shift": 2}).origin.ignored
    )


def test_missing_and_unexpected_keys_are_named(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del weights["backbone.block1.0.attn.kv.weight"]
    weights["decode_head.novelty.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "x.pth", settings={"window": 4, "shift": 2})
    assert "missing: backbone.block1.0.attn.kv.weight" in str(caught.value)
    assert "unexpected: decode_head.novelty.weight" in str(caught.value)


def test_wrong_shape_is_named(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    weights["decode_head.vs.layers.1.mixer.D"] = torch.zeros(5)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.mixer\.D has shape \[5\], expected \[16\]"
    ):
        load_checkpoint(tmp_path / "x.pth", settings={"window": 4, "shift": 2})


def test_values_that_are_not_finite_are_refused(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    weights["decode_head.linear_pred2.bias"][0] = torch.inf
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"not finite, .*linear_pred2\.bias first"):
        load_checkpoint(tmp_path / "x.pth", settings={"window": 4, "shift": 2})


class Command:
    """A pickle of it runs a command of the system where it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch came-through",)


class Tool:
    """Something that a pickle may hold and a checkpoint must not."""


def test_file_that_is_not_a_checkpoint_is_rejected(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save(weights, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": Tool()}))
    torch.save({"state_dict": Command()}, tmp_path / "command.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    reasons = {
        "absent.pth": "no checkpoint at",
        "text.pth": "neither safetensors nor",
        "truncated.pth": "truncated",
        "empty.pth": "truncated",
        "bad.safetensors": "safetensors",
        "command.pth": "no tensors; its keys: state_dict",
        "pickle.pth": "no tensors; its keys: a",
        "list.pth": "holds a list",
        "other.pth": r"no known network.*conv1\.weight",
    }
    for name, reason in reasons.items():
        with pytest.raises(CheckpointError, match=reason) as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value), name


def test_objects_beside_the_weights_do_not_matter(
    weights: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": weights, "optimizer": Tool(), "hook": Command()}
    torch.save(content, tmp_path / "code.pth")
    model = load_checkpoint(tmp_path / "code.pth", settings={"window": 4, "shift": 2})
    assert model.num_classes == 3
    assert not (tmp_path / "came-through").exists()


@pytest.mark.parametrize(
    ("window", "shift", "reason"),
    [(0, 0, "window is 0"), (-3, 0, "window is -3"), (4, 4, "shift is 4"), (4, -1, "shift is -1")],
)
def test_windows_are_checked(
    weights: dict[str, torch.Tensor], window: int, shift: int, reason: str, tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path / "x.pth", settings={"window": window, "shift": shift})


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    metadata = {name: name * 3 for name in ("license", "made_by", "b", "a", "z")}
    contents = set()
    for turn in range(8):  # safetensors' own order differs from one call to the next
        path = tmp_path / f"{turn}.safetensors"
        save_checkpoint(tiny(), path, metadata=metadata, half=turn % 2 == 0)
        contents.add(path.read_bytes())
    assert len(contents) == 2
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["z"] == "zzz"
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert all(torch.equal(stored[key], value) for key, value in published_weights(tiny()).items())
