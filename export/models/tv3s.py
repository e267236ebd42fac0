"""TV3S (CVPR 2025): per-frame encoder and MLP decoder, then windowed state-space blocks."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import KeyMap, below, count_entries
from streamseg.export.models.decoder import FoldedMLPDecoder, MLPDecoder
from streamseg.export.models.encoder import (
    EncoderConfig,
    build_encoder,
    check_encoder_size,
    describe_encoder,
    encoder_keys,
    infer_encoder,
    patch_of,
)
from streamseg.export.models.mamba import BlocksConfig, RunBlocks, TemporalBlocks
from streamseg.export.palettes import read_classes
from streamseg.export.settings import Known
from streamseg.export.step import InputConfig, Size, StepModel, upsample
from streamseg.runtime.bundle.state import StateSpec

GROWTH_WARNING = 0.25

"""Maps ``[batch, C, h, w]`` of consecutive frames and state, to maps and state after the last."""


@dataclass(frozen=True)
class TV3SConfig(InputConfig):
    """Sizes of a TV3S network; ``auxiliary_width`` is that of the unused ``conv_seg`` layer."""

    encoder: EncoderConfig
    blocks: BlocksConfig
    num_classes: int
    auxiliary_width: int = 128


class TV3SHead(MLPDecoder):
    """Decoder, temporal blocks and classifiers, with the published key names."""

    def __init__(self, config: TV3SConfig, widths: tuple[int, ...]) -> None:
        super().__init__(widths, config.blocks.embed_dim)
        self.vs = TemporalBlocks(config.blocks)
        embed_dim, classes = config.blocks.embed_dim, config.num_classes
        self.linear_pred = nn.Conv2d(embed_dim, classes, 1)
        self.linear_pred2 = nn.Conv2d(embed_dim, classes, 1)
        self.conv_seg = nn.Conv2d(config.auxiliary_width, classes, 1)


class TV3S(StepModel):
    """TV3S as a pure step.

    ``linear_pred`` (the per-frame auxiliary classifier of training) and ``conv_seg`` are kept for
    checkpoints and do not affect the output.
    """

    family = "tv3s"

    def __init__(self, config: TV3SConfig, *, drop_path: float = 0.0) -> None:
        super().__init__(config)
        self.config = config
        self.classes = read_classes({}, config.num_classes)
        self.backbone = build_encoder(config.encoder, drop_path=drop_path)
        self.decode_head = TV3SHead(config, self.backbone.widths)
        self.folded: FoldedMLPDecoder | None = None
        self.eval()

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.config.num_classes

    def map_size(self, size: Size) -> Size:
        """Size of the map that the temporal blocks run on."""
        height, width = (-(-extent // 4) // 2 for extent in size)
        window = self.config.blocks.window
        return _round_up(height, window[0]), _round_up(width, window[1])

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """Conv and scan state of every layer, shape ``[1, cells, d_inner, 3 or 16]``."""
        return self.config.blocks.state_spec(self.map_size(size))

    def check_size(self, size: Size) -> list[str]:
        """Warn where rounding up to the window grows the map by more than a quarter."""
        check_encoder_size(self.backbone, self.config.encoder, size)
        growth = self.enlargement(size)
        if growth <= GROWTH_WARNING:
            return []
        height, width = (-(-extent // 4) // 2 for extent in size)
        map_h, map_w = self.map_size(size)
        return [
            f"the {height}x{width} map is enlarged to {map_h}x{map_w} to fit the window "
            f"{self.config.blocks.window}: {growth:.0%} more work in the temporal blocks. "
            f"A frame of {8 * map_h}x{8 * map_w} would cost the same there"
        ]

    @property
    def size_step(self) -> Size:
        """Frames whose map, an eighth of them, is cut into whole windows, and no patch is cut."""
        patch = patch_of(self.config.encoder)
        height, width = (math.lcm(8 * extent, patch) for extent in self.config.blocks.window)
        return height, width

    def enlargement(self, size: Size) -> float:
        """Share by which rounding up to the window enlarges the map."""
        height, width = (-(-extent // 4) // 2 for extent in size)
        map_h, map_w = self.map_size(size)
        return map_h * map_w / (height * width) - 1

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and block sizes for the manifest."""
        blocks = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self.config.blocks).items()
        }
        return {
            "family": self.family,
            **describe_encoder(self.config.encoder),
            **blocks,
            "classes": self.num_classes,
        }

    def encode(self, frames: Tensor) -> Tensor:
        """Per-frame part: uint8 ``[n, H, W, 3]`` to fused maps ``[n, E, h, w]``, h = ceil(H/4)."""
        decoder = self.decode_head if self.folded is None else self.folded
        fused: Tensor = decoder(self.backbone(self.normalise(frames)))
        return fused

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step up to the head's output ``[1, K, h, w]``, then the next state."""
        (scores,), new_state = self._score_sequence([self.encode(frame)], frame.shape[1:3], state)
        return (scores, *new_state)

    def forward_clip(
        self,
        frames: Tensor,
        state: Sequence[Tensor] | None = None,
        *,
        run_blocks: RunBlocks | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run whole clips at once, layer by layer; for training.

        Args:
            frames: uint8 ``[batch, T, H, W, 3]``.
            state: as ``state_spec`` with the batch in front; ``None`` is the empty state.
            run_blocks: computes ``TemporalBlocks.forward``; ``None`` is the blocks themselves.
        Returns:
            Temporal scores ``[batch, T, K, h, w]``, per-frame auxiliary scores (``linear_pred``)
            of the same shape, and the state after the last frame.
        """
        batch, length, height, width, _ = frames.shape
        if state is None:
            state = [
                zeros.expand(batch, *zeros.shape[1:])
                for zeros in self.initial_state((height, width))
            ]
        fused = self.encode(frames.flatten(0, 1))
        auxiliary: Tensor = self.decode_head.linear_pred(fused)
        # Under autocast the state and all that feeds it stay in float32.
        with torch.autocast(frames.device.type, enabled=False):
            wide = fused.to(state[0].dtype).reshape(batch, length, *fused.shape[1:])
            scores, new_state = self._score_sequence(
                list(wide.unbind(1)), (height, width), state, run_blocks
            )
        temporal = torch.stack(scores, dim=1)
        return temporal, auxiliary.reshape(temporal.shape), new_state

    def _score_sequence(
        self,
        fused: list[Tensor],
        size: Sequence[int],
        state: Sequence[Tensor],
        run_blocks: RunBlocks | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        quarter = (fused[0].shape[2], fused[0].shape[3])
        map_size = self.map_size((size[0], size[1]))
        maps = [upsample(frame, map_size) for frame in fused]
        outputs, new_state = (run_blocks or self.decode_head.vs)(maps, state)
        scores = [upsample(self.decode_head.linear_pred2(out), quarter) for out in outputs]
        return scores, new_state

    def published_keys(self) -> Mapping[str, KeyMap]:
        """Key maps of the encoder and of the head."""
        encoder, head = tv3s_keys(self.config)
        return {"backbone.": encoder, "decode_head.": head}

    def fold(self) -> TV3S:
        """A copy with the decoder's linear layers and batch norm collapsed."""
        folded = copy.copy(self)
        # Modules live in a dictionary that a shallow copy shares.
        folded._modules = dict(self._modules)
        folded.folded = FoldedMLPDecoder(self.decode_head).eval()
        return folded


def _round_up(extent: int, multiple: int) -> int:
    return -(-extent // multiple) * multiple


def tv3s_keys(config: TV3SConfig) -> tuple[KeyMap, KeyMap]:
    """Key maps of the encoder (under ``backbone.``) and of the head (under ``decode_head.``)."""
    head = KeyMap()
    for level in range(1, 5):
        head.pair(f"linear_c{level}.proj", f"linear_c{level}.proj")
    for name in ("linear_fuse.conv", "linear_fuse.bn", "linear_pred", "linear_pred2", "conv_seg"):
        head.pair(name, name)
    head.pair("vs.norm_f", "vs.norm_f")
    for i in range(config.blocks.layers):
        layer = f"vs.layers.{i}"
        head.pair(f"{layer}.norm", f"{layer}.norm")
        for name in ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj", "A_log", "D"):
            head.pair(f"{layer}.mixer.{name}", f"{layer}.mixer.{name}")
    return encoder_keys(config.encoder), head


def infer_tv3s(weights: Mapping[str, Tensor], settings: Known) -> TV3SConfig:
    """Read the architecture off tensor names and shapes, and the rest from ``settings``."""
    head = below(weights, "decode_head.")
    first = below(head, "vs.layers.0.mixer.")
    needed = ("A_log", "conv1d.weight", "dt_proj.weight")
    missing = [f"decode_head.vs.layers.0.mixer.{name}" for name in needed if name not in first]
    missing += [f"decode_head.{name}" for name in ("linear_pred2.weight",) if name not in head]
    if missing:
        raise CheckpointError(f"an incomplete TV3S checkpoint: it lacks {', '.join(missing)}")
    inner, states = first["A_log"].shape
    classes, embed_dim = head["linear_pred2.weight"].shape[:2]
    conv_seg = head.get("conv_seg.weight")
    return TV3SConfig(
        encoder=infer_encoder(below(weights, "backbone."), settings),
        blocks=BlocksConfig(
            embed_dim=embed_dim,
            layers=count_entries(head, "vs.layers."),
            d_inner=inner,
            d_state=states,
            d_conv=first["conv1d.weight"].shape[-1],
            dt_rank=first["dt_proj.weight"].shape[1],
            window=settings["window"],
            shift=settings["shift"],
        ),
        num_classes=classes,
        auxiliary_width=conv_seg.shape[1] if conv_seg is not None else 128,
        mean=settings["mean"],
        std=settings["std"],
    )
