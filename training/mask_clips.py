"""Mask2Former and MPVSS over clips: class logits and masks for the losses of matched queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamseg.errors import TrainingError
from streamseg.export.models.mask2former import (
    STRIDE,
    Mask2Former,
    Mask2FormerConfig,
    MaskEncoderConfig,
)
from streamseg.export.models.motion import warp
from streamseg.export.models.mpvss import MPVSS, MPVSSConfig
from streamseg.export.models.resnet import RESNET_PRESETS
from streamseg.export.models.swin import SWIN_PRESETS
from streamseg.export.settings import Known
from streamseg.export.step import Size
from streamseg.training.config import NetworkConfig

MASK_MODELS = ("mask2former", "mpvss")
MASK_ENCODERS: dict[str, MaskEncoderConfig] = {**RESNET_PRESETS, **SWIN_PRESETS}
# What MPVSS trains beside its motion network.
_HEADS = ("sem_seg_head.predictor.class_embed.", "sem_seg_head.predictor.mask_embed.")


def build_mask_model(config: NetworkConfig, classes: int, settings: Known) -> Mask2Former:
    """Mask2Former, or MPVSS with all but its motion network and two heads frozen.

    Args:
        config: ``model`` and ``encoder``; sizes are the published ones.
        classes: how many.
        settings: all settings of the family.
    """
    normalisation = {name: settings[name] for name in ("mean", "std")}
    encoder = MASK_ENCODERS[config.encoder]
    if config.model == "mask2former":
        return Mask2Former(Mask2FormerConfig(encoder, classes, **normalisation))
    interval = settings["key_interval"]
    network = MPVSS(MPVSSConfig(encoder, classes, key_interval=interval, **normalisation))
    freeze_detector(network)
    return network


def freeze_detector(network: MPVSS) -> None:
    """Leave the motion network, and the class and mask heads, to be trained, as published."""
    for name, value in network.named_parameters():
        value.requires_grad_(name.startswith(("motion.", *_HEADS)))


def set_mask_mode(network: Mask2Former, mode: bool) -> None:
    """``train(mode)``, but batch norms, which Mask2Former and MPVSS keep frozen, evaluate."""
    network.train(mode)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def check_mask_clips(network: Mask2Former, crop: Size, frames: int) -> None:
    """Raise TrainingError for crops off the grid of 32, and for MPVSS clips of one frame."""
    if crop[0] % STRIDE or crop[1] % STRIDE:
        raise TrainingError(
            f"crop is {crop[0]}x{crop[1]}: {network.family} trains on multiples of {STRIDE}"
        )
    if isinstance(network, MPVSS) and frames < 2:
        raise TrainingError(
            "mpvss trains on a key frame and frames after it: give two or more --offsets, such as "
            "-4,-3,-2,-1,0"
        )


def detect_clips(network: Mask2Former, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits and masks.

    Args:
        network: Mask2Former, which takes every frame by itself and gives the queries of all layers;
            or MPVSS, which takes the first frame of a clip as key frame and warps its masks to
            every later one.
        frames: uint8 ``[batch, T, H, W, 3]``.

    Returns:
        Class logits ``[batch, T', L, Q, K + 1]`` and mask logits ``[batch, T', L, Q, h, w]``; T' is
        T, and L the layers and the queries before them; of MPVSS T - 1 and 1.

    Source: Mask2Former (CVPR 2022), section 3; MPVSS (NeurIPS 2023), section 3.
    """
    found = [
        _propagate(network, clip) if isinstance(network, MPVSS) else _frames(network, clip)
        for clip in frames
    ]
    return torch.stack([part[0] for part in found]), torch.stack([part[1] for part in found])


def _frames(network: Mask2Former, clip: Tensor) -> tuple[Tensor, Tensor]:
    predictor = network.sem_seg_head.predictor
    scores, masks = [], []
    for frame in clip:
        every: list[tuple[Tensor, Tensor]] = []
        network.detect(frame[None], every=every)
        scores.append(torch.cat([predictor.class_embed(query) for query, _ in every]))
        masks.append(torch.cat([maps for _, maps in every]))
    return torch.stack(scores), torch.stack(masks)


def _propagate(network: MPVSS, clip: Tensor) -> tuple[Tensor, Tensor]:
    key = network.detect(clip[:1])
    logits = network.sem_seg_head.predictor.class_embed(key.query)
    image = network.flow_image(clip[:1])
    scores, masks = [], []
    for frame in clip[1:]:
        pair = torch.cat([network.flow_image(frame[None]), image], dim=1)
        scores.append(logits)
        masks.append(warp(key.masks, network.motion(pair, key.query)))
    return torch.stack(scores), torch.stack(masks)
