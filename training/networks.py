"""Networks to train, and how they start: seeded, from our own weights, or from an encoder's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from streamseg.export.frame_graph import FrameGraph
from streamseg.export.learned_memory import MemoryModel
from streamseg.export.models.clip import ClipModel
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mamba import BlocksConfig, RunBlocks, TemporalBlocks
from streamseg.export.models.mask2former import Mask2Former
from streamseg.export.models.mit import MiTEncoder
from streamseg.export.models.segformer import SegFormer, SegFormerConfig
from streamseg.export.models.tv3s import TV3S, TV3SConfig
from streamseg.export.palettes import read_classes
from streamseg.export.settings import Resolved, resolve
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.training.config import ClipConfig, NetworkConfig
from streamseg.training.fused import find_kernels, run_fused
from streamseg.training.mask_clips import (
    MASK_ENCODERS,
    MASK_MODELS,
    build_mask_model,
    check_mask_clips,
    detect_clips,
    set_mask_mode,
)
from streamseg.training.reference_clips import (
    REFERENCE_MODELS,
    build_reference_model,
    check_offsets,
    score_clips,
    set_training_mode,
)

# CFFM, CFFM++ and MRCFA are built on SegFormer, MPVSS on Mask2Former.
EncoderNetwork = TV3S | SegFormer | Mask2Former
Network = EncoderNetwork | MemoryModel
SILENT_BIAS = -100.0
"""Classifier bias of a class that never wins: far below any score, and within float16."""
_TEMPORAL, _FRAME = "decode_head.linear_pred2.", "decode_head.linear_pred."
_QUERIES, _ADDED = "sem_seg_head.predictor.class_embed.", "memory.write."
_GLOBAL, _RETRIEVED = "decode_head.linear_pred3.", "decode_head.deco4."
_UNUSED = "decode_head.conv_seg."
_CLASSIFIERS = (_TEMPORAL, _FRAME, _GLOBAL, _RETRIEVED, _UNUSED, _QUERIES)

logger = logging.getLogger(__name__)


def build_network(
    config: NetworkConfig, classes: Sequence[SegmentationClass], *, seed: int
) -> EncoderNetwork:
    """The network with weights drawn from ``seed``.

    Raises:
        TrainingError: the encoder is unknown.
        CheckpointError: a setting is unknown or out of range.
    """
    presets: Mapping[str, object] = (
        MASK_ENCODERS if config.model in MASK_MODELS else ENCODER_PRESETS
    )
    if config.encoder not in presets:
        known = ", ".join(presets)
        raise TrainingError(f"encoder is {config.encoder!r}: expected one of {known}")
    settings = resolve_settings(config).values
    normalisation = {name: settings[name] for name in ("mean", "std")}
    torch.manual_seed(seed)
    network: EncoderNetwork
    if config.model in REFERENCE_MODELS:
        network = build_reference_model(config, len(classes), settings)
    elif config.model in MASK_MODELS:
        network = build_mask_model(config, len(classes), settings)
    elif config.model == "segformer":
        encoder = ENCODER_PRESETS[config.encoder]
        frame_sizes = SegFormerConfig(encoder, config.embed_dim, len(classes), **normalisation)
        network = SegFormer(frame_sizes, drop_path=config.drop_path)
    else:
        blocks = blocks_config(config, settings)
        sizes = TV3SConfig(ENCODER_PRESETS[config.encoder], blocks, len(classes), **normalisation)
        network = TV3S(sizes, drop_path=config.drop_path)
    network.classes = tuple(
        ClassInfo(index, entry.name, entry.color) for index, entry in enumerate(classes)
    )
    # No output depends on it; optimisers and launchers want no idle weights.
    if not isinstance(network, Mask2Former):
        network.decode_head.conv_seg.requires_grad_(False)
    return network


def blocks_config(config: NetworkConfig, settings: Mapping[str, Any]) -> BlocksConfig:
    """Sizes of temporal blocks; window and shift are settings."""
    return BlocksConfig(
        config.embed_dim,
        layers=config.layers,
        d_inner=config.expand * config.embed_dim,
        d_state=config.states,
        dt_rank=max(1, config.embed_dim // 16),
        window=settings["window"],
        shift=settings["shift"],
    )


def build_memory(config: NetworkConfig, bundle: Path, *, seed: int) -> MemoryModel:
    """A memory for a bundle, with weights drawn from ``seed``.

    Raises:
        CheckpointError: a setting is unknown or out of range.
        ExportError: the bundle has no scores that a memory could change.
    """
    settings = resolve_settings(config).values
    torch.manual_seed(seed)
    return MemoryModel(FrameGraph(bundle), blocks_config(config, settings))


def fuse_attention(network: nn.Module) -> None:
    """Have MiT encoders use fused attention, which differs by rounding alone."""
    for module in network.modules():
        if isinstance(module, MiTEncoder):
            module.fuse_attention()


def check_clips(network: Network, clips: ClipConfig) -> None:
    """Raise where a network cannot be trained on such clips.

    Raises:
        TrainingError: the offsets are not its references.
        ExportError: the crop is not a size that it takes.
    """
    if isinstance(network, MemoryModel):
        network.check_size(clips.crop)
    if isinstance(network, ClipModel):
        check_offsets(network, clips.offsets)
        network.check_size(clips.crop)
    if isinstance(network, Mask2Former):
        check_mask_clips(network, clips.crop, len(clips.offsets))


def resolve_settings(config: NetworkConfig, path: Path | None = None) -> Resolved:
    """The settings of a network to train: as configured, of the file it starts from, or published.

    Raises:
        CheckpointError: a setting is unknown, out of range, or in contradiction to the file.
    """
    stated = read_checkpoint(path, layouts=family_layouts()).stated if path is not None else {}
    # The blocks of a memory are those of TV3S.
    model = "tv3s" if config.model == "memory" else config.model
    return resolve(
        family_named(model).settings,
        family=model,
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
    own = network.state_dict()
    for name in [key for key in weights if key.startswith(_UNUSED)]:
        if name in own and weights[name].shape != own[name].shape:
            del weights[name]  # no output depends on it, and its width is arbitrary
    for name in ("weight", "bias"):
        copied, target = weights.get(_FRAME + name), own.get(_TEMPORAL + name)
        # CFFM's second classifier takes two maps, so the first is no start for it.
        fits = target is not None and target.shape == own[_FRAME + name].shape
        if _TEMPORAL + name not in weights and copied is not None and fits:
            weights[_TEMPORAL + name] = copied
    for name in (_TEMPORAL + "bias", _FRAME + "bias"):
        if name in weights:  # the data to come may show what the data before did not
            weights[name] = weights[name].masked_fill(weights[name] == SILENT_BIAS, 0.0)
    return _fill(network, weights, str(path))


def _reorder_classes(
    network: Network, checkpoint: Checkpoint, weights: dict[str, Tensor], classes_by: ClassesBy
) -> None:
    rows = [name for name in weights if name.startswith(_CLASSIFIERS)]
    count = network.num_classes
    if not rows or len(weights[rows[0]]) not in (count, count + 1):
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
        # Queries have one class more, "no object", which stays the last.
        weights[name] = torch.cat([weights[name][:count][order], weights[name][count:]])


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
    for name in (_FRAME, _TEMPORAL, _RETRIEVED, _QUERIES, _ADDED):
        bias = dict(network.named_parameters()).get(name + "bias")
        if bias is not None:
            bias[: len(absent)][absent.to(bias.device)] = SILENT_BIAS


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
    """A network as a function of whole clips, from the zero state.

    Args:
        network: any that ``build_network`` builds.
        prototypes: ``[clips, P, E]`` of the dataset's clips, CFFM++ alone.
    """

    prototypes: Tensor | None

    def __init__(self, network: Network, prototypes: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("prototypes", prototypes, persistent=False)

    def train(self, mode: bool = True) -> ClipNetwork:
        """Set the mode; what is frozen stays as in evaluation."""
        super().train(mode)
        if isinstance(self.network, Mask2Former):
            set_mask_mode(self.network, mode)
        else:
            set_training_mode(self.network, mode)
        return self

    def forward(self, frames: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Score clips.

        Args:
            frames: uint8 ``[batch, T, H, W, 3]``.
            places: int64 ``[batch]``, which clip of the dataset each is of, for its prototypes.
        Returns:
            Scores ``[batch, T, K, h, w]``, and auxiliary scores of the same shape; None for a
            network without temporal part. Networks with references score the last frame alone:
            ``[batch, 1, K, h, w]``. Mask2Former and MPVSS give what ``detect_clips`` does.
        """
        if isinstance(self.network, Mask2Former):
            return detect_clips(self.network, frames)
        if isinstance(self.network, MemoryModel):
            run = _fused(self.network.memory.blocks, frames)
            return self.network.forward_clip(frames, run_blocks=run), None
        if isinstance(self.network, TV3S):
            run = _fused(self.network.decode_head.vs, frames)
            temporal, auxiliary, _ = self.network.forward_clip(frames, run_blocks=run)
            return temporal, auxiliary
        if isinstance(self.network, ClipModel):
            centres = None
            if self.prototypes is not None:
                chosen = torch.zeros(len(frames), dtype=torch.long) if places is None else places
                centres = self.prototypes[chosen.to(self.prototypes.device)]
            return score_clips(self.network, frames, centres)
        scores: Tensor = self.network.decode_head.classify(
            self.network.encode(frames.flatten(0, 1))
        )
        return scores.reshape(*frames.shape[:2], *scores.shape[1:]), None


def _fused(blocks: TemporalBlocks, frames: Tensor) -> RunBlocks | None:
    """The kernels for CUDA, None where there are none; clips start from the zero state."""
    kernels = find_kernels() if frames.is_cuda else None
    if kernels is None:
        return None
    return lambda maps, state: (run_fused(blocks, kernels, maps), list(state))
