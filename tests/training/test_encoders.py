"""Encoders filled from classifiers: transformers' own files, and the publications' key names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SwinConfig,
    SwinForImageClassification,
)

from streamseg.errors import CheckpointError
from streamseg.export import load_checkpoint
from streamseg.export.models.convnext import ConvNeXtSizes
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.vit import VitSizes
from streamseg.training.encoders import load_encoder
from tests.training.small import CONFIG, NETWORK, make_network, run

SWIN_T = SwinConfig(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7)


def randomise(module: torch.nn.Module) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.05 * torch.randn_like(value))


@pytest.fixture(scope="module")
def mit(tmp_path_factory):
    classifier = SegformerForImageClassification(SegformerConfig()).eval()
    randomise(classifier)
    folder = tmp_path_factory.mktemp("mit")
    classifier.save_pretrained(folder)
    return classifier, folder / "model.safetensors"


@pytest.fixture(scope="module")
def swin(tmp_path_factory):
    classifier = SwinForImageClassification(SWIN_T).eval()
    randomise(classifier)
    folder = tmp_path_factory.mktemp("swin")
    classifier.save_pretrained(folder)
    return classifier, folder / "model.safetensors"


def test_mit_of_transformers_gives_the_same_maps(mit):
    classifier, path = mit
    network = make_network(drop_path=0.0)
    assert load_encoder(network, path) == []
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = classifier.segformer(image, output_hidden_states=True).hidden_states
        found = network.backbone(image)
    for one, other in zip(found, expected, strict=True):
        # transformers norms with eps 1e-5 where the publication has 1e-6.
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_swin_of_transformers_fills_all_but_the_added_norms(swin):
    classifier, path = swin
    network = make_network(encoder="swin_t", drop_path=0.0)
    kept = load_encoder(network, path)
    assert kept == [f"norm{i}.{leaf}" for i in range(4) for leaf in ("bias", "weight")]
    own = network.backbone.backbone.swin.state_dict()
    for name, value in classifier.swin.state_dict().items():
        if not name.startswith("layernorm"):
            assert torch.equal(own[name], value), name


def publish_mit(weights):
    """Key names of mit_b0.pth, written out from the publication."""
    published = {"head.weight": torch.ones(1000, 256), "head.bias": torch.ones(1000)}
    rest = {k.removeprefix("segformer.encoder."): v for k, v in weights.items()}
    for stage in range(4):
        for leaf in ("weight", "bias"):
            at = f"patch_embed{stage + 1}"
            published[f"{at}.proj.{leaf}"] = rest[f"patch_embeddings.{stage}.proj.{leaf}"]
            published[f"{at}.norm.{leaf}"] = rest[f"patch_embeddings.{stage}.layer_norm.{leaf}"]
            published[f"norm{stage + 1}.{leaf}"] = rest[f"layer_norm.{stage}.{leaf}"]
            for block in range(2):
                old, new = f"block.{stage}.{block}", f"block{stage + 1}.{block}"
                for theirs, ours in (
                    ("layer_norm_1", "norm1"),
                    ("attention.self.query", "attn.q"),
                    ("attention.self.sr", "attn.sr"),
                    ("attention.self.layer_norm", "attn.norm"),
                    ("attention.output.dense", "attn.proj"),
                    ("layer_norm_2", "norm2"),
                    ("mlp.dense1", "mlp.fc1"),
                    ("mlp.dwconv.dwconv", "mlp.dwconv.dwconv"),
                    ("mlp.dense2", "mlp.fc2"),
                ):
                    if f"{old}.{theirs}.{leaf}" in rest:
                        published[f"{new}.{ours}.{leaf}"] = rest[f"{old}.{theirs}.{leaf}"]
                published[f"{new}.attn.kv.{leaf}"] = torch.cat(
                    [rest[f"{old}.attention.self.{part}.{leaf}"] for part in ("key", "value")]
                )
    return published


def publish_swin(weights):
    """Key names of swin_tiny_patch4_window7_224.pth, written out from the publication."""
    published = {
        "head.weight": torch.ones(1000, 768),
        "head.bias": torch.ones(1000),
        "norm.weight": torch.ones(768),
        "norm.bias": torch.ones(768),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
    }
    rest = {k.removeprefix("swin."): v for k, v in weights.items()}
    for leaf in ("weight", "bias"):
        published[f"patch_embed.proj.{leaf}"] = rest[
            f"embeddings.patch_embeddings.projection.{leaf}"
        ]
        published[f"patch_embed.norm.{leaf}"] = rest[f"embeddings.norm.{leaf}"]
    for stage, depth in enumerate((2, 2, 6, 2)):
        if stage < 3:
            for part in ("reduction.weight", "norm.weight", "norm.bias"):
                key = f"layers.{stage}.downsample.{part}"
                published[key] = rest[f"encoder.{key}"]
        for block in range(depth):
            new = f"layers.{stage}.blocks.{block}"
            old = f"encoder.{new}"
            table = "relative_position_bias_table"
            published[f"{new}.attn.{table}"] = rest[f"{old}.attention.self.{table}"]
            published[f"{new}.attn.relative_position_index"] = torch.zeros(49, 49).long()
            for leaf in ("weight", "bias"):
                published[f"{new}.attn.qkv.{leaf}"] = torch.cat(
                    [rest[f"{old}.attention.self.{p}.{leaf}"] for p in ("query", "key", "value")]
                )
                for theirs, ours in (
                    ("layernorm_before", "norm1"),
                    ("layernorm_after", "norm2"),
                    ("attention.output.dense", "attn.proj"),
                    ("intermediate.dense", "mlp.fc1"),
                    ("output.dense", "mlp.fc2"),
                ):
                    published[f"{new}.{ours}.{leaf}"] = rest[f"{old}.{theirs}.{leaf}"]
    return published


@pytest.mark.parametrize("wrap", ["", "state_dict", "backbone."])
def test_published_mit_file_equals_transformers(mit, tmp_path, wrap):
    published = publish_mit(load_file(mit[1]))
    if wrap == "backbone.":
        published = {f"backbone.{k}": v for k, v in published.items() if "head" not in k}
    torch.save({wrap: published} if wrap == "state_dict" else published, tmp_path / "mit_b0.pth")
    assert_same_encoders("mit_b0", tmp_path / "mit_b0.pth", mit[1])


def test_published_swin_file_equals_transformers(swin, tmp_path):
    torch.save({"model": publish_swin(load_file(swin[1]))}, tmp_path / "swin.pth")
    assert_same_encoders("swin_t", tmp_path / "swin.pth", swin[1])


def assert_same_encoders(encoder, one, other):
    first, second = make_network(encoder=encoder), make_network(encoder=encoder)
    load_encoder(first, one)
    load_encoder(second, other)
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(value, second.backbone.state_dict()[name]), name


def test_other_encoders_are_refused(mit, tmp_path):
    with pytest.raises(CheckpointError, match="holds no swin_t encoder"):
        load_encoder(make_network(encoder="swin_t"), mit[1])
    with pytest.raises(CheckpointError, match="holds no mit_b1 encoder"):
        load_encoder(make_network(encoder="mit_b1"), mit[1])
    published = publish_mit(load_file(mit[1]))
    del published["block3.1.attn.kv.weight"]
    torch.save(published, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"missing: block3.1.attn.kv.weight"):
        load_encoder(make_network(), tmp_path / "cut.pth")


def test_encoders_come_from_every_layout(mit, tmp_path):
    """A classifier's folder, its modules' names, and a whole network under a prefix."""
    classifier, path = mit
    assert_same_encoders("mit_b0", path.parent, path)
    torch.save(classifier.state_dict(), tmp_path / "modules.pth")
    assert_same_encoders("mit_b0", tmp_path / "modules.pth", path)
    network = SegformerForSemanticSegmentation(SegformerConfig()).eval()
    network.segformer.load_state_dict(classifier.segformer.state_dict())
    wrapped = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"model": wrapped}, tmp_path / "whole.pth")
    assert_same_encoders("mit_b0", tmp_path / "whole.pth", path)


def test_encoder_of_mmsegmentation_loads(mit, tmp_path):
    """Its key names and its joined projections, written out from its class."""
    renamed = {}
    for key, value in publish_mit(load_file(mit[1])).items():
        stage = re.match(r"(?:patch_embed|block|norm)(\d)", key)
        if stage is None:
            continue
        layer = f"backbone.layers.{int(stage[1]) - 1}"
        key = re.sub(r"^patch_embed\d\.proj", f"{layer}.0.projection", key)
        key = re.sub(r"^patch_embed\d\.norm", f"{layer}.0.norm", key)
        key = re.sub(r"^block\d\.", f"{layer}.1.", key)
        key = re.sub(r"^norm\d\.", f"{layer}.2.", key)
        key = key.replace("attn.proj", "attn.attn.out_proj")
        key = key.replace("mlp.dwconv.dwconv", "ffn.layers.1")
        for name, index in (("mlp.fc1", 0), ("mlp.fc2", 4)):
            if name in key:
                key = key.replace(name, f"ffn.layers.{index}")
                value = value[:, :, None, None] if value.ndim == 2 else value
        renamed[key] = value
    for key in [key for key in renamed if ".attn.q." in key]:
        block, _, leaf = key.partition(".attn.q.")
        joined = torch.cat([renamed.pop(key), renamed.pop(f"{block}.attn.kv.{leaf}")])
        renamed[f"{block}.attn.attn.in_proj_{leaf}"] = joined
    torch.save({"state_dict": renamed}, tmp_path / "x.pth")
    assert_same_encoders("mit_b0", tmp_path / "x.pth", mit[1])


VIT = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1}
OTHERS = {
    "dinov3_vits16": (
        VitSizes("dinov3", 64, 4, 96, 16, registers=2),
        lambda: DINOv3ViTModel(
            DINOv3ViTConfig(**VIT, intermediate_size=96, num_register_tokens=2, patch_size=16)
        ),
    ),
    "dinov2_vits14": (
        VitSizes("dinov2", 64, 4, 128, 16, side=3),
        lambda: Dinov2Model(Dinov2Config(**VIT, mlp_ratio=2, patch_size=16, image_size=48)),
    ),
    "convnext_t": (
        ConvNeXtSizes((8, 16, 24, 32), (1, 1, 1, 1)),
        lambda: ConvNextForImageClassification(
            ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        ),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_encoders_start_from_transformers_files_and_train(name, tmp_path, monkeypatch):
    """The last feature is transformers' own, and a trained network can be read again; tiny ones."""
    sizes, build = OTHERS[name]
    monkeypatch.setitem(ENCODER_PRESETS, name, sizes)
    origin = build().eval()
    randomise(origin)
    origin.save_pretrained(tmp_path / "origin")
    network = make_network(encoder=name, drop_path=0.0)
    missing = load_encoder(network, tmp_path / "origin")
    assert all(key.startswith(("norm", "pyramid.")) for key in missing)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        if name == "convnext_t":
            expected = origin.convnext(image, output_hidden_states=True).hidden_states[-1]
            norm = network.backbone.backbone.hidden_states_norms["stage4"]
            found, expected = network.backbone(image)[-1], norm(expected)
        else:
            tokens = origin(image).last_hidden_state[:, 1 + sizes.registers :]
            expected = tokens.transpose(1, 2).unflatten(2, (4, 6))
            found = network.backbone.features(image)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    config = replace(CONFIG, network=replace(NETWORK, encoder=name), steps=2)
    report = run(tmp_path / "run", config=config)
    assert load_checkpoint(report.weights).config.encoder == sizes
