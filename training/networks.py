"""Networks to train, and how they start: seeded, from our own weights, or from an encoder's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamseg.errors import CheckpointError, TrainingError
from streamseg.evaluation.class_matching import ClassesBy, NamedClasses, match_classes
from streamseg.evaluation.datasets import SegmentationClass
from streamseg.export.checkpoint_files import Checkpoint, read_checkpoint
from streamseg.export.families import family_layouts, family_named
from streamseg.export.formats.key_map import below
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mamba import BlocksConfig
from streamseg.export.models.segformer import SegFormer, SegFormerConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.palettes import read_classes
from streamseg.export.settings import Resolved, resolve
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.training.config import NetworkConfig
from streamseg.training.fused import find_kernels, run_fused

Network = TV3S | SegFormer
SILENT_BIAS = -100.0
"""Classifier bias of a class that never wins: far below any score, and within float16."""
_TEMPORAL, _FRAME = "decode_head.linear_pred2.", "decode_head.linear_pred."
_CLASSIFIERS = (_TEMPORAL, _FRAME, "decode_head.conv_seg.")

logger = logging.getLogger(__name__)


def build_network(
    config: NetworkConfig, classes: Sequence[SegmentationClass], *, seed: int
) -> Network:
    """The network with weights drawn from ``seed``.

    Raises:
        TrainingError: the encoder is unknown.
        CheckpointError: a setting is unknown or out of range.
    """
    if config.encoder not in ENCODER_PRESETS:
        known = ", ".join(ENCODER_PRESETS)
        raise TrainingError(f"encoder is {config.encoder!r}: expected one of {known}")
    encoder = ENCODER_PRESETS[config.encoder]
    settings = resolve_settings(config).values
    normalisation = {name: settings[name] for name in ("mean", "std")}
    torch.manual_seed(seed)
    network: Network
    if config.model == "segformer":
        frame_sizes = SegFormerConfig(encoder, config.embed_dim, len(classes), **normalisation)
        network = SegFormer(frame_sizes, drop_path=config.drop_path)
    else:
        blocks = BlocksConfig(
            config.embed_dim,
            layers=config.layers,
            d_inner=config.expand * config.embed_dim,
            d_state=config.states,
            dt_rank=max(1, config.embed_dim // 16),
            window=settings["window"],
            shift=settings["shift"],
        )
        sizes = TV3SConfig(encoder, blocks, len(classes), **normalisation)
        network = TV3S(sizes, drop_path=config.drop_path)
    network.classes = tuple(
        ClassInfo(index, entry.name, entry.color) for index, entry in enumerate(classes)
    )
    # No output depends on it; optimisers and launchers want no idle weights.
    network.decode_head.conv_seg.requires_grad_(False)
    return network


def resolve_settings(config: NetworkConfig, path: Path | None = None) -> Resolved:
    """The settings of a network to train: as configured, of the file it starts from, or published.

    Raises:
        CheckpointError: a setting is unknown, out of range, or in contradiction to the file.
    """
    stated = read_checkpoint(path, layouts=family_layouts()).stated if path is not None else {}
    return resolve(
        family_named(config.model).settings,
        family=config.model,
        encoder=config.encoder,
        stated=stated,
        given=config.settings,
    )


def start_from(network: Network, path: Path, *, classes_by: ClassesBy = "name") -> list[str]:
    """Fill the network from a checkpoint with published key names, as far as it goes.

    A TV3S network takes encoder, decoder and ``linear_pred`` of a SegFormer checkpoint, and its
    ``linear_pred2`` starts as a copy of ``linear_pred``; its temporal blocks keep their seeded
    weights. Where both have class names, the classifiers' rows are put in the network's order.

    Returns:
        The published names that the checkpoint did not fill.
    Raises:
        CheckpointError: unreadable, or a tensor has another shape.
        DatasetError: as many classes, but others.
    """
    checkpoint = read_checkpoint(path, layouts=family_layouts())
    weights = {key: value.float() for key, value in checkpoint.weights.items()}
    _reorder_classes(network, checkpoint, weights, classes_by)
    for name in ("weight", "bias"):
        if _TEMPORAL + name not in weights and _FRAME + name in weights:
            weights[_TEMPORAL + name] = weights[_FRAME + name]
    for name in (_TEMPORAL + "bias", _FRAME + "bias"):
        if name in weights:  # the data to come may show what the data before did not
            weights[name] = weights[name].masked_fill(weights[name] == SILENT_BIAS, 0.0)
    return _fill(network, weights, str(path))


def _reorder_classes(
    network: Network, checkpoint: Checkpoint, weights: dict[str, Tensor], classes_by: ClassesBy
) -> None:
    rows = [name for name in weights if name.startswith(_CLASSIFIERS)]
    if not rows or len(weights[rows[0]]) != network.num_classes:
        return  # filling the network reports the shapes
    found = read_classes(checkpoint.meta, network.num_classes)
    match = match_classes(
        NamedClasses(str(checkpoint.path), tuple(entry.name for entry in found)),
        NamedClasses("the dataset", tuple(entry.name for entry in network.classes)),
        classes_by=classes_by,
    )
    if match.how.startswith("by position:"):
        logger.warning("classes of %s are taken %s", checkpoint.path, match.how)
    order = torch.tensor(match.places).argsort()
    for name in rows:
        weights[name] = weights[name][order]


@torch.no_grad()
def silence_absent(network: Network, pixels: NDArray[np.int64]) -> None:
    """Let classes that no label shows never win.

    Training pushes their scores down only where another class is sure, so that a few pixels of
    unseen footage still fall to them, and each such class costs a whole class of mean IoU.

    Args:
        network: changed in place: the biases of its classifiers.
        pixels: labelled pixels of each class.
    """
    absent = torch.from_numpy(pixels == 0)
    for name in (_FRAME + "bias", _TEMPORAL + "bias"):
        bias = dict(network.named_parameters()).get(name)
        if bias is not None:
            bias[absent.to(bias.device)] = SILENT_BIAS


def _fill(network: Network, weights: dict[str, Tensor], source: str) -> list[str]:
    own = network.state_dict()
    missing: list[str] = []
    filled: dict[str, Tensor] = {}
    for prefix, keys in network.published_keys().items():
        found, _ = keys.translate(below(weights, prefix))
        filled |= {prefix + key: value for key, value in found.items() if prefix + key in own}
        missing += [
            prefix + keys.published(key.removeprefix(prefix))
            for key in own
            if key.startswith(prefix) and key.removeprefix(prefix) not in found
        ]
    for key, value in filled.items():
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"{source}: {key} has shape {list(value.shape)}, the network to train has "
                f"{list(own[key].shape)}"
            )
    if not filled:
        raise CheckpointError(f"{source}: no tensor of it fits the network to train")
    network.load_state_dict(filled, strict=False)
    return missing


class ClipNetwork(nn.Module):
    """A network as a function of whole clips, from the zero state."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Score clips.

        Args:
            frames: uint8 ``[batch, T, H, W, 3]``.
        Returns:
            Scores ``[batch, T, K, h, w]``, and auxiliary scores of the same shape; None for a
            network without temporal part.
        """
        if isinstance(self.network, TV3S):
            run = self._run_fused if frames.is_cuda and find_kernels() is not None else None
            temporal, auxiliary, _ = self.network.forward_clip(frames, run_blocks=run)
            return temporal, auxiliary
        scores: Tensor = self.network.decode_head.classify(
            self.network.encode(frames.flatten(0, 1))
        )
        return scores.reshape(*frames.shape[:2], *scores.shape[1:]), None

    def _run_fused(
        self, maps: Sequence[Tensor], state: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        kernels = find_kernels()
        assert kernels is not None
        assert isinstance(self.network, TV3S)
        # The state is zero: whole clips are run from their start.
        return run_fused(self.network.decode_head.vs, kernels, maps), list(state)
