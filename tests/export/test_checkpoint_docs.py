"""Every command of docs/checkpoints.md runs, on small files of the kind that its row names."""

from __future__ import annotations

import pickle
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
)

from streamseg.cli.main import cli
from streamseg.export import checkpoint_files
from streamseg.export.checkpoint import published_weights
from streamseg.export.hub import Snapshot
from streamseg.runtime.bundle.bundle import read_bundle
from tests.conftest import ROOT
from tests.export import origins, tiny
from tests.export.test_layouts import DATA

PAGE = (ROOT / "docs/checkpoints.md").read_text()
COMMANDS = re.findall(r"\| `(streamseg (?:export|train) [^`]+)` \|$", PAGE, re.MULTILINE)
TRAINING = ["--crop", "64x64", "--batch", "1", "--steps", "1", "--threads", "1"]
AUTHORS = {
    "segformer.b0.512x512.ade.160k.pth": "segformer",
    "tv3s_vspw.pth": "tv3s",
    "cffm_vspw.pth": "cffm",
    "mrcfa_vspw.pth": "mrcfa",
    "model_final_mpvss.pth": "mpvss",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of every row."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, network, options in (
        ("segformer-b0-ade", "segformer", {}),
        ("mask2former-swin-tiny-cityscapes", "mask2former-swin", {}),
        ("mask2former-resnet50", "mask2former-resnet", {}),
        ("upernet-swin-tiny", "upernet-swin", {}),
        ("upernet-convnext-tiny", "upernet-convnext", {"max_shard_size": "100KB"}),
    ):
        origins.write_folder(origins.build(network), folder / name, **options)
    swin = folder / "upernet-swin-tiny"
    torch.save(load_file(swin / "model.safetensors"), swin / "pytorch_model.bin")
    (swin / "model.safetensors").unlink()
    shutil.copy(DATA / "mmseg_segformer.pth", folder / "segformer_mit-b0_ade20k.pth")
    shutil.copy(DATA / "mmseg_upernet.pth", folder / "upernet_swin-tiny_ade20k.pth")
    for name, family in AUTHORS.items():
        weights = published_weights(tiny.build(family))
        torch.save({"meta": {"epoch": 1}, "state_dict": weights}, folder / name)
    arrays = {
        k: v.detach().numpy() for k, v in published_weights(tiny.build("mask2former")).items()
    }
    content = {"model": arrays, "__author__": "third_party", "matching_heuristics": True}
    (folder / "model_final_mask2former.pkl").write_bytes(pickle.dumps(content))
    write_frameworks(folder)
    torch.manual_seed(0)
    whole = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19))
    whole.save_pretrained(folder / "segformer-b0-ade-full")
    SegformerForImageClassification(SegformerConfig()).save_pretrained(folder / "mit-b0")
    return folder


def write_frameworks(folder: Path) -> None:
    weights = load_file(folder / "segformer-b0-ade/model.safetensors")
    lightning = {f"net.{key}": value for key, value in weights.items()}
    lightning |= {"criterion.weight": torch.ones(3), "val_miou.confmat": torch.zeros(3, 3)}
    content = {"state_dict": lightning, "hyper_parameters": {"lr": 0.1}, "epoch": 3}
    torch.save(content, folder / "last.ckpt")
    step = folder / "deepspeed_run/global_step10"
    step.mkdir(parents=True)
    (step.parent / "latest").write_text("global_step10")
    torch.save({"module": weights, "dp_world_size": 2}, step / "mp_rank_00_model_states.pt")
    wrapped = {f"module._orig_mod.{key}": value for key, value in weights.items()}
    averaged = {f"ema.{key}": torch.zeros_like(value) for key, value in weights.items()}
    torch.save({**wrapped, **averaged}, folder / "ddp.pth")


def test_page_has_a_command_for_every_origin() -> None:
    assert len(COMMANDS) == 19
    assert len(COMMANDS) == sum("`streamseg " in line for line in PAGE.splitlines() if "|" in line)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    # The hub itself is in test_hub.py.
    found = Snapshot(place / "segformer-b0-ade", "hf:someone/segformer-b0-ade@0123")
    monkeypatch.setattr(checkpoint_files, "fetch", lambda _name: found)
    _, *arguments = shlex.split(re.sub(r"--size \d+x\d+", "--size 64x96", command))
    if arguments[0] == "train":
        arguments += TRAINING
        arguments[arguments.index("synthetic:street")] += "?size=64x96&scenes=2&frames=12"
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    out = place / arguments[arguments.index("-o") + 1]
    if arguments[0] == "train":
        assert (out / "weights.safetensors").is_file()
    else:
        assert read_bundle(out).manifest.weights["layout"]
