"""Encoder weights of ImageNet classifiers, in the formats that they were published in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.checkpoint import read_checkpoint
from streamseg.export.formats.key_map import below
from streamseg.export.models.encoder import encoder_keys
from streamseg.training.networks import Network

# Of the classifier on top, or derived from sizes.
_UNUSED = re.compile(
    r"^(head|classifier|norm|layernorm|fc)\.|(^|\.)(relative_position_index|attn_mask)$"
)
# Added by segmentation networks to Swin; classifiers have none, so they start at one and zero.
_ADDED = re.compile(r"^norm\d\.")

_MIT_BLOCK = {
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "attention.self.query": "attn.q",
    "attention.self.sr": "attn.sr",
    "attention.self.layer_norm": "attn.norm",
    "attention.output.dense": "attn.proj",
    "mlp.dense1": "mlp.fc1",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
    "mlp.dense2": "mlp.fc2",
}
_SWIN_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def load_encoder(network: Network, path: Path) -> list[str]:
    """Fill the encoder from a classifier's weights.

    Known layouts: those of the SegFormer and Swin publications (``.pth``, also below ``model`` or
    ``state_dict``, with or without ``backbone.``), and those of ``transformers`` (safetensors or
    ``.bin``).

    Returns:
        Published names of encoder tensors that such classifiers do not have (Swin's ``norm0`` to
        ``norm3``) and that keep their initial values.
    Raises:
        CheckpointError: unreadable, of another encoder, or incomplete.
    """
    weights = {key: value.float() for key, value in read_checkpoint(path).weights.items()}
    published = published_names(weights)
    encoder = network.config.encoder
    keys = encoder_keys(encoder)
    found, unknown = keys.translate(published)
    unknown = [key for key in unknown if not _UNUSED.search(key)]
    own = below(network.state_dict(), "backbone.")
    missing = sorted({keys.published(key) for key in own if key not in found})
    wanted = [key for key in missing if not (_ADDED.search(key) or _UNUSED.search(key))]
    if wanted or unknown:
        raise CheckpointError(
            f"{path} holds no {encoder.name} encoder: "
            + "; ".join(
                f"{what}: {', '.join(names[:6])}" + (" ..." if len(names) > 6 else "")
                for what, names in (("missing", wanted), ("unexpected", unknown))
                if names
            )
        )
    for key, value in found.items():
        if key in own and own[key].shape != value.shape:
            raise CheckpointError(
                f"{path} holds no {encoder.name} encoder: {keys.published(key)} has shape "
                f"{list(value.shape)}, expected {list(own[key].shape)}"
            )
    network.backbone.load_state_dict({k: v for k, v in found.items() if k in own}, strict=False)
    return missing


def published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of any known layout to those of the SegFormer and Swin publications."""
    for prefix, translate in (("segformer.encoder.", _from_segformer), ("swin.", _from_swin)):
        if any(key.startswith(prefix) for key in weights):
            renamed = {k.removeprefix(prefix): v for k, v in weights.items()}
            return _stack(dict(zip(map(translate, renamed), renamed.values(), strict=True)))
    if any(key.startswith("backbone.") for key in weights):
        return below(weights, "backbone.")
    return dict(weights)


def _from_segformer(key: str) -> str:
    key = re.sub(
        r"^patch_embeddings\.(\d)\.(proj|layer_norm)",
        lambda m: f"patch_embed{int(m[1]) + 1}." + ("proj" if m[2] == "proj" else "norm"),
        key,
    )
    key = re.sub(r"^layer_norm\.(\d)", lambda m: f"norm{int(m[1]) + 1}", key)
    key = re.sub(r"^block\.(\d)\.(\d+)", lambda m: f"block{int(m[1]) + 1}.{m[2]}", key)
    return _rename(key, r"^(block\d\.\d+)\.(.+)\.(weight|bias)$", _MIT_BLOCK)


def _from_swin(key: str) -> str:
    key = key.removeprefix("encoder.")
    key = key.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
    key = key.replace("embeddings.norm", "patch_embed.norm")
    table = "attention.self.relative_position_bias_table"
    key = key.replace(table, "attn.relative_position_bias_table")
    return _rename(key, r"^(layers\.\d\.blocks\.\d+)\.(.+)\.(weight|bias)$", _SWIN_BLOCK)


def _rename(key: str, pattern: str, names: Mapping[str, str]) -> str:
    match = re.match(pattern, key)
    if match is None:
        return key
    return f"{match[1]}.{names.get(match[2], match[2])}.{match[3]}"


def _stack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join projections that the publications keep in one tensor: MiT's key and value, Swin's three.

    MiT's query is renamed before, so that what is left under ``attention.self`` is to be joined.
    """
    result: dict[str, Tensor] = {}
    for key, value in weights.items():
        match = re.match(r"^(.+)\.attention\.self\.(query|key|value)\.(weight|bias)$", key)
        if match is None:
            result[key] = value
            continue
        block, _, leaf = match.groups()
        parts = [
            weights[name]
            for part in ("query", "key", "value")
            if (name := f"{block}.attention.self.{part}.{leaf}") in weights
        ]
        joined = "qkv" if len(parts) == 3 else "kv"
        result[f"{block}.attn.{joined}.{leaf}"] = torch.cat(parts)
    return result
