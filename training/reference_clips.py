"""CFFM, CFFM++ and MRCFA over whole clips: the last frame looks back at the frames before it.

Steps take one frame with its references from rings; here encoder and trunk run once over all frames
of a batch, and each clip's last frame takes the frames before it as references.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from streamseg.errors import TrainingError
from streamseg.evaluation.clustering import cluster, sample_frames
from streamseg.evaluation.datasets import Dataset, IndexedClip
from streamseg.evaluation.progress import Progress, no_progress
from streamseg.export.catalogue import CFFM_DEPTHS, TWO_LAYER
from streamseg.export.models.cffm import CFFM, PROTOTYPES, CFFMConfig, CFFMPlus
from streamseg.export.models.clip import ClipModel
from streamseg.export.models.encoder import ENCODER_PRESETS
from streamseg.export.models.mrcfa import MRCFA, ONE_LAYER, MRCFAConfig
from streamseg.export.settings import Known
from streamseg.export.step import upsample
from streamseg.training.config import NetworkConfig

REFERENCE_MODELS: dict[str, type[ClipModel]] = {"cffm": CFFM, "cffm++": CFFMPlus, "mrcfa": MRCFA}
# What CFFM++ adds to a trained CFFM, which stays as it is.
_GLOBAL_BRANCH = ("decode_head.decoder_swin.", "decode_head.linear_pred3.")
# Of the global branch's layers, what stands in checkpoints and does not affect any output.
_IDLE = (".attn.relative_position_bias_table", ".attn.proj.weight", ".attn.proj.bias")

# Of MRCFA's head, the same.
_UNUSED = tuple(f"decode_head.deco{i}." for i in (1, 2, 3))


def build_reference_model(config: NetworkConfig, classes: int, settings: Known) -> ClipModel:
    """CFFM, CFFM++ or MRCFA with the publication's depth for the encoder.

    Args:
        config: its ``layers``, ``expand`` and ``states`` concern TV3S alone.
        classes: how many.
        settings: all settings of the family.
    """
    encoder = ENCODER_PRESETS[config.encoder]
    normalisation = {name: settings[name] for name in ("mean", "std")}
    network: ClipModel
    if config.model == "mrcfa":
        stages = TWO_LAYER if config.encoder == "mit_b1" else tuple(ONE_LAYER.items())
        network = MRCFA(
            MRCFAConfig(
                encoder,
                config.embed_dim,
                classes,
                offsets=settings["offsets"],
                keep_ratio=settings["keep_ratio"],
                stages=stages,
                **normalisation,
            ),
            drop_path=config.drop_path,
        )
    else:
        sizes = CFFMConfig(
            encoder,
            config.embed_dim,
            classes,
            depth=CFFM_DEPTHS.get(config.encoder, 1),
            offsets=settings["offsets"],
            **normalisation,
        )
        kind = CFFMPlus if config.model == "cffm++" else CFFM
        network = kind(sizes, drop_path=config.drop_path)
    if isinstance(network, CFFMPlus):
        freeze_local_branch(network)
    for name, value in network.named_parameters():
        if name.startswith(_UNUSED):
            value.requires_grad_(False)
    return network


def freeze_local_branch(network: CFFMPlus) -> None:
    """Leave only the global branch to be trained, as published."""
    for name, value in network.named_parameters():
        trained = name.startswith(_GLOBAL_BRANCH) and not name.endswith(_IDLE)
        value.requires_grad_(trained)


def set_training_mode(network: nn.Module, mode: bool) -> None:
    """``train(mode)``, but what is frozen in CFFM++ always runs as in evaluation."""
    network.train(mode)
    if isinstance(network, CFFMPlus):
        network.eval()
        network.decode_head.decoder_swin.train(mode)


def check_offsets(network: ClipModel, offsets: Sequence[int]) -> None:
    """Raise TrainingError where clips hold other frames than the network's references."""
    expected = (*network.config.offsets, 0)
    if tuple(offsets) != expected:
        wanted = ",".join(map(str, expected))
        raise TrainingError(
            f"clips have the offsets {list(offsets)}, but the network's references are "
            f"{list(network.config.offsets)}: give --offsets {wanted}, or other references with "
            "--set offsets=..."
        )


def score_clips(
    network: ClipModel, frames: Tensor, prototypes: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Scores of each clip's last frame, and per-frame scores of all its frames.

    Args:
        network: CFFM, CFFM++ or MRCFA.
        frames: uint8 ``[batch, T, H, W, 3]``, references first, oldest first.
        prototypes: ``[batch, P, E]``, CFFM++ alone.

    Returns:
        Scores ``[batch, 1, K, h, w]``, and auxiliary scores ``[batch, T, K, h, w]`` of the trunk's
        classifier, which segments frames without references. CFFM++ gives the scores of its global
        branch alone, and no auxiliary ones: the rest is frozen.

    Source: CFFM++ (TPAMI 2024), sections 3 and 4.1; MRCFA (ECCV 2022), section 3.
    """
    batch, length = frames.shape[:2]
    if isinstance(network, CFFMPlus):
        assert prototypes is not None
        with torch.no_grad():
            reduced = network.trunk(frames[:, -1])[2]
        head = network.decode_head
        seen = torch.cat(
            [head.decoder_swin(reduced[i : i + 1], centres) for i, centres in enumerate(prototypes)]
        )
        return head.linear_pred3(seen)[:, None], None
    maps, fused, reduced = network.trunk(frames.flatten(0, 1))
    entries = network.memorise(maps, reduced)
    found = []
    for first in range(0, batch * length, length):
        last = first + length - 1
        references = [[entry[at : at + 1] for at in range(first, last)] for entry in entries]
        target = slice(last, last + 1)
        found.append(
            network.look_back([level[target] for level in maps], reduced[target], references, ())
        )
    quarter = (fused.shape[2], fused.shape[3])
    scores = upsample(torch.cat(found), quarter)[:, None]
    auxiliary = network.decode_head.linear_pred(fused)
    return scores, auxiliary.reshape(batch, length, *auxiliary.shape[1:])


@torch.no_grad()
def find_prototypes(
    network: CFFMPlus, dataset: Dataset, *, seed: int, progress: Progress = no_progress
) -> Tensor:
    """Centres of the tokens of every clip, from 10 frames spread over it, as published.

    Args:
        network: its trunk, which training does not change, makes the tokens.
        dataset: clips that can be read in any order.
        seed: of the clustering.
        progress: called after each clip with its name.

    Returns:
        ``[clips, P, E]`` float32.

    Raises:
        TrainingError: a clip is a video, or too short and small for so many centres.
    """
    set_training_mode(network, False)
    device = next(network.parameters()).device
    found = []
    for clip in dataset.clips:
        if not isinstance(clip, IndexedClip):
            raise TrainingError(f"clip {clip.name} cannot be read in any order")
        tokens = []
        for index in sample_frames(len(clip)):
            frame = torch.from_numpy(clip[index].image)[None].to(device)
            reduced = network.trunk(frame)[2]
            tokens.append(reduced[0].flatten(1).T.cpu().numpy())
        joined = np.ascontiguousarray(np.concatenate(tokens), np.float32)
        if len(joined) < PROTOTYPES:
            raise TrainingError(
                f"clip {clip.name} has {len(joined)} tokens in its sampled frames, fewer than the "
                f"{PROTOTYPES} prototypes of CFFM++"
            )
        found.append(torch.from_numpy(cluster(joined, PROTOTYPES, seed=seed)))
        progress(clip.name)
    return torch.stack(found)
