"""Every layout under every prefix and container gives the network that its origin has."""

from __future__ import annotations

import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export import load_checkpoint, save_checkpoint
from streamseg.export.checkpoint import published_weights
from streamseg.export.formats import layouts, mit, swin
from streamseg.export.formats.renaming import rename, their_names
from streamseg.export.step import StepModel
from tests.export import origins, tiny

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4

Writer = Callable[[dict[str, Tensor], Path], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tensor]]:
    """Folder of each network of transformers, and its own logits."""
    found = {}
    for name in origins.NETWORKS:
        network = origins.build(name)
        folder = origins.write_folder(network, tmp_path_factory.mktemp(name))
        torch.save(network.state_dict(), folder / "modules.pth")
        found[name] = (folder, origins.logits(network))
    return found


@torch.inference_mode()
def logits_of(model: StepModel, frame: np.ndarray = origins.FRAME) -> Tensor:
    return model(torch.from_numpy(frame)[None])[0]


def torch_file(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


# -- transformers, with its own forward as the oracle


@pytest.mark.parametrize("name", origins.NETWORKS)
def test_folder_of_transformers_gives_its_logits(
    name: str, folders: dict[str, tuple[Path, Tensor]]
) -> None:
    folder, expected = folders[name]
    model = load_checkpoint(folder)
    assert (logits_of(model) - expected).abs().max() < TOLERANCE
    assert expected.std() > 0.01
    assert [entry.name for entry in model.classes] == ["road", "car", "sky"]
    assert model.origin.license == "apache-2.0"
    assert model.origin.outside == ()
    assert model.assumed == {}


@pytest.mark.parametrize("name", origins.NETWORKS)
@pytest.mark.parametrize("kind", ["file", "bin", "shards", "modules", "lightning", "half"])
def test_other_files_of_transformers_give_its_logits(
    name: str, kind: str, folders: dict[str, tuple[Path, Tensor]], tmp_path: Path
) -> None:
    folder, expected = folders[name]
    source = folder / "model.safetensors"
    weights = load_file(source)
    for beside in ("config.json", "preprocessor_config.json"):
        (tmp_path / beside).write_bytes((folder / beside).read_bytes())
    path = tmp_path / "pytorch_model.bin"
    if kind == "file":
        model = load_checkpoint(source)
    elif kind == "bin":
        torch_file(weights, path)
        model = load_checkpoint(tmp_path)
    elif kind == "shards":
        origins.write_folder(origins.build(name), tmp_path, max_shard_size="100KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        model = load_checkpoint(tmp_path)
        again = load_checkpoint(min(tmp_path.glob("model-*.safetensors")))
        assert again.origin.sha256 == model.origin.sha256
    elif kind == "modules":
        torch_file(torch.load(folder / "modules.pth"), path)
        model = load_checkpoint(path)
    elif kind == "lightning":
        wrapped = {f"net.model.{key}": value for key, value in weights.items()}
        wrapped |= {"criterion.weight": torch.ones(3), "val_miou.confmat": torch.zeros(3, 3)}
        model = load_checkpoint(torch_file({"state_dict": wrapped, "epoch": 3}, path))
        assert {"criterion.weight", "val_miou.confmat"} <= set(model.origin.ignored)
    else:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        save_file(weights, tmp_path / "model.safetensors")
        model = load_checkpoint(tmp_path)
    error = (logits_of(model) - expected).abs().max()
    assert error < (0.2 if kind == "half" else TOLERANCE)


def test_norms_keep_the_epsilon_of_their_origin(tmp_path: Path) -> None:
    """transformers norms with 1e-5 where the publication has 1e-6: small features show it."""
    network = origins.build("segformer")
    for key, value in network.state_dict().items():
        if re.search(r"patch_embeddings\.layer_norm|o_proj|fc2", key):
            value.mul_(0.003)
    origins.write_folder(network, tmp_path)
    expected = origins.logits(network)
    model = load_checkpoint(tmp_path)
    assert (logits_of(model) - expected).abs().max() < TOLERANCE
    save_checkpoint(model, tmp_path / "again.safetensors")
    again = load_checkpoint(tmp_path / "again.safetensors")
    assert (logits_of(again) - expected).abs().max() < TOLERANCE
    save_file(published_weights(model), tmp_path / "published.safetensors")
    published = load_checkpoint(tmp_path / "published.safetensors")
    assert (logits_of(published) - expected).abs().max() > TOLERANCE


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({"do_rescale": False}, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)),
        ({"do_normalize": False}, (0, 0, 0), (255, 255, 255)),
        ({"rescale_factor": 1 / 127.5}, (63.75, 51, 38.25), (31.875, 25.5, 38.25)),
        ({"do_rescale": None, "rescale_factor": None}, (127.5, 102, 76.5), (63.75, 51, 76.5)),
    ],
)
def test_preprocessors_are_followed(
    changes: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    folders: dict[str, tuple[Path, Tensor]],
    tmp_path: Path,
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["segformer"][0] / name).read_bytes())
    settings = {**origins.PREPROCESSOR, **changes}
    settings = {name: value for name, value in settings.items() if value is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model = load_checkpoint(tmp_path)
    assert model.normalisation.mean == pytest.approx(mean)
    assert model.normalisation.std == pytest.approx(std)


def test_configurations_of_other_networks_are_refused(
    folders: dict[str, tuple[Path, Tensor]], tmp_path: Path
) -> None:
    folder = folders["upernet-swin"][0]
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config["backbone_config"]["hidden_act"] = "relu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"hidden_act relu, expected gelu for .* with swin"):
        load_checkpoint(tmp_path)
    config["backbone_config"]["hidden_act"] = "gelu"
    config["pool_scales"] = [1, 2, 3, 4]
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_checkpoint(tmp_path)
    assert model.describe()["pool_scales"] == [1, 2, 3, 4]
    assert [entry.name for entry in model.classes] == ["class 0", "class 1", "class 2"]


# -- mmsegmentation, with its own forward as the oracle


@pytest.mark.parametrize("name", ["mmseg_segformer", "mmseg_upernet"])
def test_files_of_mmsegmentation_give_its_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = load_checkpoint(DATA / f"{name}.pth")
    recorded = np.load(DATA / f"{name}.npz")
    found = logits_of(model, recorded["frame"]).numpy()
    assert np.abs(found - recorded["logits"]).max() < TOLERANCE
    assert [entry.name for entry in model.classes] == ["road", "car", "sky"]
    assert model.classes[1].color == (0, 0, 142)
    assert not {"mean", "std"} & set(model.assumed)
    assert {"auxiliary_head.weight", "message_hub"} <= set(model.origin.ignored)
    assert not (tmp_path / "came-through").exists()


def test_channel_order_follows_the_configuration() -> None:
    """The network that takes BGR is imported as one of RGB: mean and first kernel turned."""
    model = load_checkpoint(DATA / "mmseg_upernet.pth")
    assert model.normalisation.mean == (100.0, 110.0, 120.0)
    assert load_checkpoint(DATA / "mmseg_segformer.pth").normalisation.mean == (120.0, 110.0, 100.0)


# -- the publications' layouts, with the plain import as the oracle

FAMILIES = [name for name in tiny.FAMILIES if name != "segformer-convolutional"]
SETTINGS: dict[str, dict[str, Any]] = {
    "tv3s": {"window": 4, "shift": 2},
    "tv3s-swin": {"window": 4, "shift": 2},
    "mrcfa": {"keep_ratio": 0.5},
    "videomt": {"image_size": "64,96", "heads": 4},
}
PREFIXES: dict[str, str] = {
    "bare": "",
    "ddp": "module.",
    "both": "module.model.",
    "lightning": "net.",
    "compiled": "_orig_mod.",
    "fsdp": "_fsdp_wrapped_module.",
    "other": "my.own.segmentor.",
}
CONTAINERS: dict[str, Writer] = {
    "bare": torch_file,
    "mmcv": lambda w, path: torch_file({"meta": {"epoch": 1}, "state_dict": w}, path),
    "state": lambda w, path: torch_file({"model_state_dict": w, "optimizer": {"x": [1]}}, path),
    "ema": lambda w, path: torch_file({"ema": {"module": w, "updates": 3}}, path),
    "teacher": lambda w, path: torch_file(
        {"student": {k: torch.zeros_like(v) for k, v in w.items()}, "teacher": w}, path
    ),
    "deepspeed": lambda w, path: torch_file({"module": OrderedDict(w), "dp_world_size": 1}, path),
    "both": lambda w, path: torch_file(
        {"state_dict_ema": {k: torch.zeros_like(v) for k, v in w.items()}, "state_dict": w}, path
    ),
    "detectron2": lambda w, path: _pickled(w, path),
    "safetensors": lambda w, path: (save_file(w, path), path)[1],
    "legacy": lambda w, path: (
        torch.save(w, path, _use_new_zipfile_serialization=False),
        path,
    )[1],
}


def _pickled(weights: dict[str, Tensor], path: Path) -> Path:
    arrays = {key: value.numpy() for key, value in weights.items()}
    content = {"model": arrays, "__author__": "third_party", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.fixture(scope="module")
def published() -> dict[str, tuple[StepModel, dict[str, Tensor]]]:
    found = {}
    for family in FAMILIES:
        model = tiny.build(family)
        weights = {k: v.detach().contiguous() for k, v in published_weights(model).items()}
        found[family] = (model, weights)
    return found


def assert_same(model: StepModel, expected: StepModel) -> None:
    own, other = expected.state_dict(), model.state_dict()
    assert own.keys() == other.keys()
    for key, value in own.items():
        assert torch.equal(value, other[key]) or key.endswith("num_batches_tracked"), key


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_from_every_container(
    family: str,
    container: str,
    published: dict[str, tuple[StepModel, dict[str, Tensor]]],
    tmp_path: Path,
) -> None:
    expected, weights = published[family]
    path = CONTAINERS[container](weights, tmp_path / "weights")
    assert_same(load_checkpoint(path, settings=SETTINGS.get(family)), expected)


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_under_every_prefix(
    family: str,
    prefix: str,
    published: dict[str, tuple[StepModel, dict[str, Tensor]]],
    tmp_path: Path,
) -> None:
    expected, weights = published[family]
    wrapped = {prefix + key: value for key, value in weights.items()}
    wrapped |= {
        "ema_" + prefix + key: torch.zeros_like(value) for key, value in weights.items() if prefix
    }
    wrapped |= {
        prefix + "auxiliary_head.conv_seg.weight": torch.ones(3),
        "criterion.w": torch.ones(1),
    }
    model = load_checkpoint(
        torch_file({"state_dict": wrapped}, tmp_path / "x"), settings=SETTINGS.get(family)
    )
    assert_same(model, expected)
    assert "criterion.w" in model.origin.ignored
    assert model.origin.outside == ()


def test_inner_wrappers_are_dropped(
    published: dict[str, tuple[StepModel, dict[str, Tensor]]], tmp_path: Path
) -> None:
    expected, weights = published["segformer"]
    inner = {
        key.replace("backbone.", "backbone._orig_mod.").replace(
            "decode_head.", "_fsdp_wrapped_module.decode_head._checkpoint_wrapped_module."
        ): value
        for key, value in weights.items()
    }
    assert_same(load_checkpoint(torch_file(inner, tmp_path / "x")), expected)


def test_first_release_of_mask2former_loads(
    published: dict[str, tuple[StepModel, dict[str, Tensor]]], tmp_path: Path
) -> None:
    expected, weights = published["mask2former"]
    old = {
        re.sub(r"sem_seg_head\.pixel_decoder\.", "sem_seg_head.", key).replace(
            "query_feat", "static_query"
        ): value
        for key, value in weights.items()
    }
    old |= {"pixel_mean": torch.tensor([1.0, 2, 3]).view(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    model = load_checkpoint(_pickled(old, tmp_path / "x.pkl"))
    assert_same(model, expected)
    assert model.normalisation.mean == (1.0, 2.0, 3.0)


# -- errors


def test_unknown_networks_name_the_closest_layouts(
    published: dict[str, tuple[StepModel, dict[str, Tensor]]], tmp_path: Path
) -> None:
    weights = {
        key.replace("linear_pred", "last_layer"): value
        for key, value in published["segformer"][1].items()
    }
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(torch_file(weights, tmp_path / "x"))
    message = str(caught.value)
    assert "no known network has these keys" in message
    closest = message.partition("The closest layouts: ")[2].split("; ")
    assert len(closest) == 3
    assert re.match(
        r"(TV3S|CFFM|SegFormer)\S* \(\d+ of \d+ keys fit, not decode_head\.last_layer", closest[0]
    )


def test_missing_keys_have_the_names_of_their_file(
    folders: dict[str, tuple[Path, Tensor]], tmp_path: Path
) -> None:
    weights = load_file(folders["segformer"][0] / "model.safetensors")
    wrapped = {f"net.{key}": value for key, value in weights.items()}
    del wrapped["net.segformer.encoder.block.2.0.attention.self.value.weight"]
    wrapped["net.decode_head.novelty.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(torch_file(wrapped, tmp_path / "x"))
    assert "net.segformer.encoder.block.2.0.attention.self.value.weight" in str(caught.value)
    assert "unexpected: net.decode_head.novelty.weight" in str(caught.value)


def test_keys_of_unknown_purpose_are_reported(
    published: dict[str, tuple[StepModel, dict[str, Tensor]]], tmp_path: Path
) -> None:
    wrapped = {f"segmentor.{key}": value for key, value in published["segformer"][1].items()}
    wrapped["refiner.conv.weight"] = torch.ones(1)
    model = load_checkpoint(torch_file(wrapped, tmp_path / "x"))
    assert model.origin.outside == ("refiner.conv.weight",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"_fsdp_wrapped_module._flat_param": torch.zeros(9)}, "FULL_STATE_DICT"),
        ({"module": {"decode_head.linear_pred.weight": torch.zeros(0)}}, "zero_to_fp32"),
    ],
)
def test_partitioned_files_are_named(content: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(torch_file(content, tmp_path / "x"))


def test_folders_are_recognised(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="0 weights files: none"):
        load_checkpoint(tmp_path)
    (tmp_path / "a.pth").touch()
    (tmp_path / "b.pth").touch()
    with pytest.raises(CheckpointError, match=r"2 weights files: a\.pth, b\.pth"):
        load_checkpoint(tmp_path)
    (tmp_path / ".metadata").touch()
    with pytest.raises(CheckpointError, match="dcp_to_torch"):
        load_checkpoint(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for names, reason in (
        (["../secret"], "outside its folder"),
        (["model-00001-of-00002.safetensors"], "lacks 1 of 1 shards"),
    ):
        index.write_text(json.dumps({"weight_map": dict(enumerate(names))}))
        with pytest.raises(CheckpointError, match=reason):
            load_checkpoint(tmp_path)


def test_deepspeed_folder_loads(
    published: dict[str, tuple[StepModel, dict[str, Tensor]]], tmp_path: Path
) -> None:
    expected, weights = published["segformer"]
    (tmp_path / "global_step10").mkdir()
    (tmp_path / "latest").write_text("global_step10")
    path = tmp_path / "global_step10/mp_rank_00_model_states.pt"
    torch_file({"module": weights, "buffer_names": []}, path)
    assert_same(load_checkpoint(tmp_path), expected)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"zero_to_fp32\.py"):
        load_checkpoint(tmp_path)
    (tmp_path / "latest").write_text("../elsewhere")
    with pytest.raises(CheckpointError, match="not a folder here"):
        load_checkpoint(tmp_path)


# -- the tables themselves


@pytest.mark.parametrize("layout", layouts.LAYOUTS, ids=lambda layout: layout.name)
def test_tables_agree_about_a_key(layout: layouts.Layout) -> None:
    """A rule restores what it renames, and patterns that overlap agree."""
    for rule in layout.rules:
        key = re.sub(r"\{[a-z](\+\d)?\}", "3", rule.templates[0])
        key = key.replace("{leaf}", "weight").replace("{rest}", "a.weight")
        published = rule.rename(key)
        assert published is not None, rule
        assert rule.restore(published) == key
        assert key in their_names(published, layout.rules)


def test_joined_tensors_need_all_their_parts() -> None:
    name = "segformer.encoder.block.0.0.attention.self."
    parts = {f"{name}key.weight": torch.zeros(2, 2)}
    assert rename(parts, mit.TRANSFORMERS).weights == {}
    parts[f"{name}value.weight"] = torch.ones(2, 2)
    joined = rename(parts, mit.TRANSFORMERS).weights["backbone.block1.0.attn.kv.weight"]
    assert joined[:, 0].tolist() == [0, 0, 1, 1]


def test_merged_patches_are_those_of_unfold() -> None:
    """mmsegmentation merges patches by nn.Unfold, the publication by slices."""
    maps = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    unfolded = torch.nn.Unfold(2, stride=2)(maps)[0].T
    rows = [maps[0, :, y::2, x::2].flatten(1).T for x in (0, 1) for y in (0, 1)]
    rule = next(r for r in swin.MMSEG if r.theirs.endswith("downsample.reduction"))
    assert rule.change is not None
    assert torch.equal(rule.change(unfolded), torch.cat(rows, dim=1))
