"""VidEoMT (CVPR 2026) on transformers' modules: a plain ViT whose queries travel through time.

Each frame's queries are the learned ones plus a projection of the last frame's, so a query follows
its object. Scores are transformers' ``post_process_semantic_segmentation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import VideomtConfig
from transformers.models.videomt.modeling_videomt import (
    VideomtEmbeddings,
    VideomtLayer,
    VideomtMaskHead,
    VideomtScaleBlock,
)

from streamseg.errors import CheckpointError
from streamseg.export.formats.key_map import count_entries
from streamseg.export.models.segments import KINDS, find_segments
from streamseg.export.palettes import read_classes
from streamseg.export.settings import Known, read_count, read_numbers, read_pair, setting
from streamseg.export.step import GraphPlan, InputConfig, Size, StepModel, refuse_size
from streamseg.runtime.bundle.state import StateSpec

ENCODERS = {384: "vit_s", 768: "vit_b", 1024: "vit_l"}
MLP_RATIO = 4
SEGMENTS, SEGMENT_CLASSES = "segments", "segment_classes"


def _read_kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError("a kind")
    return str(value)


def _read_epsilon(value: Any) -> float:
    (epsilon,) = read_numbers(value, 1)
    if not 0 < epsilon < 1:
        raise ValueError("an epsilon")
    return epsilon


@dataclass(frozen=True)
class VidEoMTConfig(InputConfig):
    """Sizes of a VidEoMT: ``layers`` in all, of which the last ``query_layers`` see the queries."""

    num_classes: int
    width: int = 384
    layers: int = 12
    query_layers: int = 4
    queries: int = 200
    patch: int = 16
    registers: int = 4
    upscale_blocks: int = 2
    gated_mlp: bool = False
    image_size: Size = field(
        default=(640, 640),
        metadata=setting(
            "frame size that the position embeddings are for",
            expected="one or two whole numbers H,W",
            read=read_pair(1),
            published=lambda _known: None,
        ),
    )
    heads: int = field(
        default=6,
        metadata=setting(
            "attention heads of a layer",
            expected="a whole number",
            read=read_count(1),
            published=lambda known: {"vit_s": 6, "vit_b": 12, "vit_l": 16}.get(known["encoder"]),
        ),
    )
    norm_eps: float = field(
        default=1e-6,
        metadata=setting("epsilon of the norms", expected="a small number", read=_read_epsilon),
    )
    segments: str = field(
        default="none",
        metadata=setting(
            "ids of segments as a second output",
            expected=f"one of {', '.join(KINDS)}",
            read=_read_kind,
        ),
    )

    @property
    def encoder(self) -> str:
        """The encoder's name by its width."""
        return ENCODERS.get(self.width, "vit")

    @property
    def grid(self) -> Size:
        """Patches in a column and in a row."""
        return (self.image_size[0] // self.patch, self.image_size[1] // self.patch)


class VidEoMT(StepModel):
    """VidEoMT as a step; tensors have transformers' names.

    State: the queries behind the last layer, and a flag that a frame has been seen. With
    ``segments``, two more are written and never read: ``segments``, uint8 ``[1, H, W]``, the query
    that each pixel belongs to (255: none), and ``segment_classes``, uint8 ``[1, Q]``, the class of
    every query (255: none). A query keeps its number, so ids are stable.
    """

    family = "videomt"

    def __init__(self, config: VidEoMTConfig) -> None:
        super().__init__(config)
        self.config = config
        self.classes = read_classes({}, config.num_classes)
        sizes = _transformers_config(config)
        self.embeddings = VideomtEmbeddings(sizes)
        self.layernorm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.query = nn.Embedding(config.queries, config.width)
        self.layers = nn.ModuleList(VideomtLayer(sizes) for _ in range(config.layers))
        self.upscale_block = VideomtScaleBlock(sizes)
        self.mask_head = VideomtMaskHead(sizes)
        self.class_predictor = nn.Linear(config.width, config.num_classes + 1)
        self.query_updater = nn.Linear(config.width, config.width)
        # Of training; its length is the number of layers that see the queries.
        self.register_buffer("attn_mask_probs", torch.ones(config.query_layers))
        self.eval()

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.config.num_classes

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:
        """Queries, the flag, and what ``segments`` adds."""
        shape = (1, self.config.queries, self.config.width)
        carried = (StateSpec("queries", shape), StateSpec("seen", (1, 1, 1)))
        if self.config.segments == "none":
            return carried
        return (
            *carried,
            StateSpec(SEGMENTS, (1, *size), "uint8", kind="key"),
            StateSpec(SEGMENT_CLASSES, (1, self.config.queries), "uint8", kind="key"),
        )

    def graphs(self, size: Size) -> dict[str, GraphPlan]:
        """One graph, which reads the carried states and writes all."""
        table = self.state_spec(size)
        reads = tuple(spec.name for spec in table if spec.kind == "carry")
        return {"step": GraphPlan(reads, tuple(spec.name for spec in table))}

    def check_size(self, size: Size) -> list[str]:
        """Refuse other sizes than that of the position embeddings."""
        height, width = self.config.image_size
        if size != self.config.image_size:
            raise refuse_size(
                size,
                f"this network was trained at {height}x{width}; its frames are stretched to it",
            )
        return []

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and sizes for the manifest."""
        config = self.config
        return {
            "family": self.family,
            "encoder": config.encoder,
            "image_size": list(config.image_size),
            "heads": config.heads,
            "norm_eps": config.norm_eps,
            "queries": config.queries,
            "query_layers": config.query_layers,
            "segments": config.segments,
            "classes": self.num_classes,
        }

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Scores ``[1, K, h, w]`` at the masks' resolution, then every state."""
        old, seen = state[:2]
        count = self.config.queries
        hidden = self.embeddings(self.normalise(frame))
        first = self.config.layers - self.config.query_layers
        for layer in self.layers[:first]:
            hidden = layer(hidden)
        queries = self.query.weight[None] + seen * self.query_updater(old)
        hidden = torch.cat([queries, hidden], 1)
        for layer in self.layers[first:]:
            hidden = layer(hidden)
        masks, logits = self._predict(self.layernorm(hidden))
        classes = logits.softmax(-1)
        scores = classes[:, :, :-1].transpose(1, 2) @ masks.sigmoid().flatten(2)
        scores = scores.reshape(1, -1, *masks.shape[2:])
        written = (hidden[:, :count], torch.ones_like(seen))
        if self.config.segments == "none":
            return (scores, *written)
        size = (frame.shape[1], frame.shape[2])
        return (scores, *written, *find_segments(masks, classes, size, kind=self.config.segments))

    def _predict(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits ``[1, Q, h, w]`` and class logits ``[1, Q, K + 1]``."""
        queries = tokens[:, : self.config.queries]
        patches = tokens[:, self.config.queries + 1 + self.config.registers :]
        maps = patches.transpose(1, 2).reshape(1, -1, *self.config.grid)
        maps = self.upscale_block(maps)
        masks = self.mask_head(queries) @ maps.flatten(2)
        return masks.reshape(1, -1, *maps.shape[2:]), self.class_predictor(queries)


def _transformers_config(config: VidEoMTConfig) -> VideomtConfig:
    settings: dict[str, Any] = {"attn_implementation": "eager"}
    return VideomtConfig(
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        layer_norm_eps=config.norm_eps,
        image_size=config.image_size,
        patch_size=config.patch,
        mlp_ratio=MLP_RATIO,
        num_upscale_blocks=config.upscale_blocks,
        use_swiglu_ffn=config.gated_mlp,
        num_blocks=config.query_layers,
        num_queries=config.queries,
        num_register_tokens=config.registers,
        **settings,
    )


def encoder_of(weights: Mapping[str, Tensor]) -> str:
    """Name of a checkpoint's encoder, by its width."""
    query = weights.get("query.weight")
    return ENCODERS.get(int(query.shape[1]), "vit") if query is not None else "vit"


def infer_videomt(weights: Mapping[str, Tensor], settings: Known) -> VidEoMTConfig:
    """Read the architecture off tensor names and shapes, and the rest from ``settings``."""
    needed = (
        "query.weight",
        "class_predictor.weight",
        "attn_mask_probs",
        "embeddings.register_tokens",
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.position_embeddings.weight",
    )
    missing = [name for name in needed if name not in weights]
    if missing:
        raise CheckpointError(f"an incomplete VidEoMT checkpoint: it lacks {', '.join(missing)}")
    config = VidEoMTConfig(
        num_classes=weights["class_predictor.weight"].shape[0] - 1,
        width=weights["query.weight"].shape[1],
        layers=count_entries(weights, "layers."),
        query_layers=weights["attn_mask_probs"].shape[0],
        queries=weights["query.weight"].shape[0],
        patch=weights["embeddings.patch_embeddings.projection.weight"].shape[-1],
        registers=weights["embeddings.register_tokens"].shape[1],
        upscale_blocks=count_entries(weights, "upscale_block.block."),
        gated_mlp="layers.0.mlp.gate_proj.weight" in weights,
        image_size=settings["image_size"],
        heads=settings["heads"],
        norm_eps=settings["norm_eps"],
        segments=settings["segments"],
        mean=settings["mean"],
        std=settings["std"],
    )
    _check_sizes(config, weights["embeddings.position_embeddings.weight"].shape[0])
    return config


def _check_sizes(config: VidEoMTConfig, patches: int) -> None:
    height, width = config.image_size
    rows, columns = config.grid
    if height % config.patch or width % config.patch or rows * columns != patches:
        raise CheckpointError(
            f"image_size {height}x{width} has {rows}x{columns} patches of {config.patch}, the "
            f"checkpoint has {patches} position embeddings"
        )
    if config.width % config.heads:
        raise CheckpointError(f"width {config.width} is not a multiple of {config.heads} heads")
    if config.queries > 255 and config.segments != "none":
        raise CheckpointError(f"{config.queries} queries: ids of segments reach 254")
