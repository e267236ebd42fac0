"""MRCFA (arXiv 2207.12795) as a pure step: affinities to past frames, refined over scales.

Encoder and trunk run once per frame. Rings keep each frame's keys of three scales and its values,
all on the 1/32 grid. Of every reference the tokens that matter most to the target are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.errors import CheckpointError, ExportError
from streamseg.export.formats.key_map import below
from streamseg.export.models.clip import ClipModel, ReferenceConfig
from streamseg.export.models.segformer import SegFormerHead, infer_segformer
from streamseg.export.settings import Known, read_share, setting
from streamseg.export.step import Size, refuse_size, upsample
from streamseg.runtime.bundle.state import StateSpec

GROUP_NORM_EPS = 1e-5
IMPORTANCE_TOP = 5
STRIDE = 32
# Published, by encoder.
KEEP_RATIOS = {"mit_b0": 0.8, "mit_b1": 0.5, "mit_b2": 0.5, "mit_b5": 0.5}
# Refinement stages in the order they run: 1/32, 1/16, 1/8, and after each merge.
STAGES = ("encoder_layer4", "encoder_layer3", "encoder_layer2")
MERGES = ("encoder_layer4to3", "encoder_layer3to2")

Layers = tuple[tuple[int, int, int], ...]  # (channels in, channels out, kernel) of a stage
ONE_LAYER: dict[str, Layers] = {
    "encoder_layer4": ((1, 1, 3),),
    "encoder_layer3": ((1, 1, 5),),
    "encoder_layer2": ((1, 1, 5),),
    "encoder_layer4to3": ((1, 1, 3),),
    "encoder_layer3to2": ((1, 1, 3),),
}


@dataclass(frozen=True)
class MRCFAConfig(ReferenceConfig):
    """Sizes of an MRCFA head over its trunk.

    ``keep_ratio`` is the share of reference tokens kept; ``stages`` the affinity decoder's
    convolutions.
    """

    keep_ratio: float = field(
        default=0.5,
        kw_only=True,
        metadata=setting(
            "share of each reference's tokens that are kept",
            expected="more than 0, at most 1",
            read=read_share,
            published=lambda known: KEEP_RATIOS.get(known["encoder"]),
        ),
    )
    stages: tuple[tuple[str, Layers], ...] = tuple(ONE_LAYER.items())


class AffinityConv(nn.Module):
    """A convolution over the target positions of an affinity, under its published name."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)

    def forward(self, maps: Tensor) -> Tensor:
        """``[n, C, h, w]`` to ``[n, C', h, w]``."""
        out: Tensor = self.conv2(maps)
        return out


class AffinityStage(nn.Sequential):
    """Convolution, norm over a whole image, ReLU; once or more often."""

    def __init__(self, layers: Layers) -> None:
        parts: list[nn.Module] = []
        for channels_in, channels_out, kernel in layers:
            parts += [
                AffinityConv(channels_in, channels_out, kernel),
                nn.GroupNorm(1, channels_out, eps=GROUP_NORM_EPS),
                nn.ReLU(),
            ]
        super().__init__(*parts)

    def forward_scaled(self, maps: Tensor, scale: float) -> Tensor:
        """The stage of ``maps / scale``, computed from ``maps``.

        The norm divides by the standard deviation, so scaling its input, the bias before it and
        its epsilon together changes nothing; affinities stay in half precision's range.
        """
        conv, norm = self[0].conv2, self[1]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        assert conv.bias is not None
        found = F.conv2d(maps, conv.weight, conv.bias * scale, padding=conv.padding)
        found = F.relu(F.group_norm(found, 1, norm.weight, norm.bias, norm.eps * scale**2))
        for layer in list(self)[3:]:
            found = layer(found)
        return found


class AffinityDecoder(nn.Module):
    """Affinities of 1/32, 1/16 and 1/8 to one refined affinity at 1/8; published key names."""

    def __init__(self, config: MRCFAConfig) -> None:
        super().__init__()
        for name, layers in config.stages:
            setattr(self, name, AffinityStage(layers))

    def forward(self, affinities: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
        """Refine.

        Args:
            affinities: coarsest first, ``[tokens, 1, h, w]``, times their ``scales``.
            scales: by which the affinities were multiplied.
        Returns:
            ``[tokens, C, h, w]`` at 1/8.
        """
        first, *finer = (
            self._stage(name).forward_scaled(maps, scale)
            for name, maps, scale in zip(STAGES, affinities, scales, strict=True)
        )
        merged = first
        for name, maps in zip(MERGES, finer, strict=True):
            size = (maps.shape[2], maps.shape[3])
            enlarged = F.interpolate(merged, size=size, mode="bilinear", align_corners=True)
            merged = self._stage(name)(enlarged + maps)
        return merged

    def _stage(self, name: str) -> AffinityStage:
        stage = self.get_submodule(name)
        assert isinstance(stage, AffinityStage)
        return stage


class Affinities(nn.Module):
    """Query and key projections of three scales and the affinity decoder."""

    def __init__(self, config: MRCFAConfig, widths: tuple[int, ...]) -> None:
        super().__init__()
        for level in range(1, 4):
            setattr(self, f"q{level}", nn.Linear(widths[level], widths[level]))
            setattr(self, f"k{level}", nn.Linear(widths[level], widths[level]))
        self.hpn = AffinityDecoder(config)


class SmallDecoder(nn.Module):
    """Classifier behind a dropout (index 0 of the published sequence)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.smalldecoder = nn.Sequential(nn.Identity(), nn.Conv2d(width, classes, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """``[1, C, h, w]`` to ``[1, K, h, w]``."""
        out: Tensor = self.smalldecoder(maps)
        return out


class MRCFAHead(SegFormerHead):
    """Trunk, affinities and classifiers, with the published key names.

    ``deco1`` to ``deco3`` are auxiliary classifiers of training.
    """

    def __init__(self, config: MRCFAConfig, widths: tuple[int, ...]) -> None:
        super().__init__(config, widths)
        embed_dim = config.embed_dim
        for index in range(1, 5):
            setattr(self, f"deco{index}", SmallDecoder(embed_dim, config.num_classes))
        self.hypercorre_module = Affinities(config, widths)
        self.sr1_feat = nn.Conv2d(embed_dim, embed_dim, 4, stride=4)
        self.sr2 = nn.Conv2d(widths[1], widths[1], 4, stride=4)
        self.sr3 = nn.Conv2d(widths[2], widths[2], 2, stride=2)


class MRCFA(ClipModel):
    """MRCFA as a pure step."""

    family = "mrcfa"
    config: MRCFAConfig
    decode_head: MRCFAHead

    def __init__(self, config: MRCFAConfig, *, drop_path: float = 0.0) -> None:
        super().__init__(config, drop_path=drop_path)

    def build_head(self, widths: tuple[int, ...]) -> MRCFAHead:
        """The MRCFA head."""
        return MRCFAHead(self.config, widths)

    def ring_names(self) -> tuple[str, ...]:
        """Keys of 1/32, 1/16 and 1/8, and values."""
        return ("keys32", "keys16", "keys8", "values")

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """Ten slots ``[1, N, C]`` each, N tokens of the 1/32 grid."""
        tokens = (size[0] // STRIDE) * (size[1] // STRIDE)
        _, eighth, sixteenth, coarsest = self.backbone.widths
        widths = (coarsest, sixteenth, eighth, self.config.embed_dim)
        return tuple(
            StateSpec(name, (1, tokens, width), kind="ring", slots=self.config.slots)
            for name, width in zip(self.ring_names(), widths, strict=True)
        )

    def check_size(self, size: Size) -> list[str]:
        """Refuse sizes off the 1/32 grid, and grids too small for the importance of a token."""
        super().check_size(size)
        legal = [-(-extent // STRIDE) * STRIDE for extent in size]
        if tuple(legal) != size:
            raise refuse_size(
                size,
                f"MRCFA needs multiples of {STRIDE}; the next is {legal[0]}x{legal[1]}",
            )
        tokens = (size[0] // STRIDE) * (size[1] // STRIDE)
        if tokens < IMPORTANCE_TOP:
            raise refuse_size(size, f"MRCFA needs at least {IMPORTANCE_TOP} cells of 32x32")
        if self._kept(tokens) == 0:
            ratio = self.config.keep_ratio
            raise refuse_size(size, f"keep_ratio {ratio:g} keeps none of the {tokens} tokens")
        return []

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and sizes for the manifest."""
        layers = max(len(stage) for _, stage in self.config.stages)
        return {
            **super().describe(),
            "keep_ratio": self.config.keep_ratio,
            "affinity_layers": layers,
        }

    def trunk(self, frame: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """See ``ClipModel.trunk``."""
        maps = self.backbone(self.normalise(frame))
        fused = self.fuse(maps)
        return maps, fused, upsample(fused, (fused.shape[2] // 2, fused.shape[3] // 2))

    def memorise(self, maps: list[Tensor], reduced: Tensor) -> tuple[Tensor, ...]:
        """Keys of three scales and values, coarsest first, ``[1, N, C]`` each."""
        head, module = self.decode_head, self.decode_head.hypercorre_module
        sources = (maps[3], head.sr3(maps[2]), head.sr2(maps[1]))
        keys = [
            module.get_submodule(name)(_tokens(source))
            for name, source in zip(("k3", "k2", "k1"), sources, strict=True)
        ]
        return (*keys, _tokens(head.sr1_feat(reduced)))

    def look_back(
        self,
        maps: list[Tensor],
        reduced: Tensor,
        references: Sequence[Sequence[Tensor]],
        given: Sequence[Tensor],  # noqa: ARG002
    ) -> Tensor:
        """Retrieve each reference's values by refined affinity, average, classify."""
        module = self.decode_head.hypercorre_module
        levels = (maps[3], maps[2], maps[1])
        scales = [1 / math.sqrt(level.shape[1]) for level in levels]
        queries = [
            module.get_submodule(name)(_tokens(level)) * scale
            for name, level, scale in zip(("q3", "q2", "q1"), levels, scales, strict=True)
        ]
        *keys, values = (torch.cat(list(ring)) for ring in references)
        kept = self._keep(keys[0] @ queries[0].transpose(1, 2))
        chosen = [_select(entry, kept) for entry in keys]
        values = _select(values, kept)
        affinities = [
            (key @ query.transpose(1, 2)).reshape(-1, 1, level.shape[2], level.shape[3])
            for key, query, level in zip(chosen, queries, levels, strict=True)
        ]
        refined = module.hpn(affinities, scales)
        weights = refined.reshape(kept.shape[0], kept.shape[1], -1).softmax(dim=1)
        retrieved = (values.transpose(1, 2) @ weights).mean(dim=0, keepdim=True)
        scores: Tensor = self.decode_head.get_submodule("deco4")(
            retrieved.reshape(reduced.shape) + reduced
        )
        return scores

    def _keep(self, affinity: Tensor) -> Tensor:
        """Indices ``[references, kept]`` of the tokens with most weight in their best targets."""
        if affinity.shape[2] < IMPORTANCE_TOP:
            raise ExportError(f"MRCFA needs at least {IMPORTANCE_TOP} tokens")
        importance = affinity.topk(IMPORTANCE_TOP, dim=2).values.sum(dim=2)
        return importance.topk(self._kept(importance.shape[1]), dim=1).indices

    def _kept(self, tokens: int) -> int:
        return int(tokens * self.config.keep_ratio)


def _tokens(maps: Tensor) -> Tensor:
    """``[n, C, h, w]`` to ``[n, h*w, C]``."""
    return maps.flatten(2).transpose(1, 2)


def _select(tokens: Tensor, indices: Tensor) -> Tensor:
    """Rows ``indices [n, kept]`` of ``tokens [n, N, C]``."""
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2]))


def infer_mrcfa(weights: Mapping[str, Tensor], settings: Known) -> MRCFAConfig:
    """Read the architecture off tensor names and shapes, and the rest from ``settings``."""
    trunk = infer_segformer(weights, settings)
    decoder = below(weights, "decode_head.hypercorre_module.hpn.")
    stages = tuple((name, _infer_stage(decoder, name)) for name in (*STAGES, *MERGES))
    return MRCFAConfig(
        **vars(trunk),
        offsets=settings["offsets"],
        keep_ratio=settings["keep_ratio"],
        stages=stages,
    )


def _infer_stage(decoder: Mapping[str, Tensor], name: str) -> Layers:
    layers: list[tuple[int, int, int]] = []
    while (key := f"{name}.{3 * len(layers)}.conv2.weight") in decoder:
        shape = decoder[key].shape
        layers.append((shape[1], shape[0], shape[2]))
    if not layers:
        raise CheckpointError(f"it lacks decode_head.hypercorre_module.hpn.{name}.0.conv2.weight")
    return tuple(layers)
