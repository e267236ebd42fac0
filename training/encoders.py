"""Encoder weights of ImageNet classifiers, in the formats that they were published in."""

from __future__ import annotations

import re
from pathlib import Path

from streamseg.errors import CheckpointError
from streamseg.export.checkpoint_files import read_tensors
from streamseg.export.formats.key_map import below
from streamseg.export.formats.layouts import is_training_only, translate_encoder
from streamseg.export.models.encoder import encoder_keys
from streamseg.export.models.resnet import ResNetSizes
from streamseg.training.networks import EncoderNetwork

# Of the classifier on top.
_UNUSED = re.compile(r"^(\w+\.)?(head|classifier|norm|layernorm|fc)\.")
# Added by segmentation networks: norms of Swin's and ConvNeXt's stages, which start at one and
# zero, and the pyramid of a ViT, which starts seeded.
_ADDED = re.compile(r"^(norm\d|pyramid)\.")


def load_encoder(network: EncoderNetwork, path: Path) -> list[str]:
    """Fill the encoder from the weights of a classifier, or of a whole network.

    Args:
        network: changed in place.
        path: any file or folder that ``read_tensors`` reads, in the layout of the SegFormer or Swin
            publication, of mmsegmentation or of transformers.

    Returns:
        Published names of encoder tensors that such classifiers do not have (Swin's ``norm0`` to
        ``norm3``, the pyramid of a ViT) and that keep their initial values.
    Raises:
        CheckpointError: unreadable, of another encoder, or incomplete.
    """
    published, unknown = translate_encoder(read_tensors(path).tensors)
    encoder = network.config.encoder
    if isinstance(encoder, ResNetSizes):
        raise CheckpointError(
            f"{path}: weights of ResNet classifiers are not read; start from a whole Mask2Former "
            "with --init"
        )
    keys = encoder_keys(encoder)
    found, strange = keys.translate({key: value.float() for key, value in published.items()})
    unknown = [key for key in (*unknown, *strange) if not _UNUSED.search(key)]
    unknown = [key for key in unknown if not is_training_only(key)]
    own = below(network.state_dict(), "backbone.")
    missing = sorted({keys.published(k) for k in own if k not in found and not is_training_only(k)})
    wanted = [key for key in missing if not _ADDED.search(key)]
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
