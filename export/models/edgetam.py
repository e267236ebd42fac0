"""EdgeTAM (arXiv 2501.07256) on transformers' modules: objects prompted on the first frame.

The prompt is a given state. The first frame's memory and pointers are states of kind ``key``; those
of the frames since are rings. Objects are a batch. Labels: 0 is background, n the n-th.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EdgeTamVideoModel
from transformers.models.edgetam_video.modeling_edgetam_video import (
    NO_OBJ_SCORE,
    apply_rotary_pos_emb_2d_cross_attn,
    get_1d_sine_pe,
    window_partition,
)

from streamseg.errors import CheckpointError, ExportError
from streamseg.export.step import GraphPlan, Size, StepModel, refuse_size
from streamseg.runtime.bundle.manifest import ScheduleRow
from streamseg.runtime.bundle.state import StateSpec

# Added to the logits of memories that are missing: exp of it is 0, and half precision holds it.
BLOCKED = -1e4
POINTS, POINT_LABELS = "points", "point_labels"
KEYS, RINGS, COUNT = ("first_memory", "first_pointer"), ("memory", "pointer"), "count"


def build(folder: str, objects: int = 1, points: int = 1) -> EdgeTAM:
    """The network in a folder that transformers wrote; for ``streamseg export MODULE:build``.

    Args:
        folder: with ``config.json`` and weights of an ``EdgeTamVideoModel``.
        objects: that are tracked.
        points: of every object's prompt; a box is two (labels 2 and 3). As in transformers, one
            point lets the network choose among three masks.
    Raises:
        CheckpointError: the folder holds something else, or its settings are not supported.
    """
    try:
        network = EdgeTamVideoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{folder} holds no EdgeTAM of transformers: {error}") from error
    return EdgeTAM(network, objects=objects, points=points)


class EdgeTAM(StepModel):
    """EdgeTAM as a step. ``Stream.give`` sets the prompt; a reset makes the next frame the first.

    ``points`` is float32 ``[objects, points, 2]``, x and y in pixels of the model's frame, and
    ``point_labels`` int32 ``[objects, points]``: 1 inside the object, 0 outside, 2 and 3 corners of
    a box, -10 none.
    """

    family = "edgetam"

    def __init__(self, network: EdgeTamVideoModel, *, objects: int = 1, points: int = 1) -> None:
        super().__init__(classes=["background", *(f"object {i + 1}" for i in range(objects))])
        config = network.config
        if config.max_cond_frame_num not in (-1, 1) or config.num_maskmem < 2:
            raise CheckpointError("this EdgeTAM has no memory of several frames")
        self.network, self.objects, self.points = network.eval(), objects, points
        self.memories, self.pointers = config.num_maskmem, config.max_object_pointers_in_encoder
        self.eval()

    def state_spec(self, size: Size) -> tuple[StateSpec, ...]:  # noqa: ARG002
        """The prompt, the first frame's memory, the rings, and the number of frames."""
        config = self.network.config
        tokens = config.perceiver_resampler_num_latents + config.perceiver_resampler_num_latents_2d
        memory = (self.objects, tokens, self.network.mem_dim)
        pointer = (self.objects, self.network.hidden_dim)
        prompt = (self.objects, self.points)
        return (
            StateSpec(POINTS, (*prompt, 2), init="unset", kind="given"),
            StateSpec(POINT_LABELS, prompt, "int32", init="unset", kind="given"),
            StateSpec("first_memory", memory, kind="key"),
            StateSpec("first_pointer", pointer, kind="key"),
            StateSpec("memory", memory, kind="ring", slots=self.memories),
            StateSpec("pointer", pointer, kind="ring", slots=self.pointers),
            StateSpec(COUNT, (1, 1)),
        )

    def graphs(self, size: Size) -> dict[str, GraphPlan]:  # noqa: ARG002
        """``prompt`` for the first frame, ``track`` for the others."""
        reads = {"memory": self.memories - 1, "pointer": self.pointers - 1}
        return {
            "prompt": GraphPlan((POINTS, POINT_LABELS, COUNT), (*KEYS, *RINGS, COUNT)),
            "track": GraphPlan((*KEYS, *RINGS, COUNT), (*RINGS, COUNT), reads),
        }

    def schedule(self) -> tuple[ScheduleRow, ...]:
        """Ages are cut to the frames there are; the graph ignores what is read twice."""
        rows = [ScheduleRow(0, "prompt")]
        for start in range(1, max(self.memories, self.pointers)):
            ages = {
                "memory": tuple(min(age, start) for age in range(self.memories - 1, 0, -1)),
                "pointer": tuple(min(age, start) for age in range(1, self.pointers)),
            }
            rows.append(ScheduleRow(start, "track", ages=ages))
        return tuple(rows)

    def check_size(self, size: Size) -> list[str]:
        """Refuse other sizes than that of the network."""
        side = self.network.image_size
        if size != (side, side):
            raise refuse_size(size, f"EdgeTAM's frames are {side}x{side}; others are stretched")
        return []

    def describe(self) -> Mapping[str, Any]:
        """Family, encoder and sizes for the manifest."""
        vision = self.network.config.vision_config
        return {
            "family": self.family,
            "encoder": vision.backbone_config.model_type,
            "objects": self.objects,
            "points": self.points,
            "classes": self.num_classes,
        }

    def score(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """A first frame's scores and states."""
        return self.run_graph("prompt", frame, *state[:2], state[-1])

    def run_graph(self, graph: str, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Scores ``[1, 1 + objects, h, w]``: 0 for the background, mask logits of the objects."""
        if graph not in ("prompt", "track"):
            raise ExportError(f"{self.family} has no graph '{graph}'")
        features, places, details = self._encode(frame)
        *before, count = inputs
        first = graph == "prompt"
        if first:
            points, labels = before
            current = features + self.network.no_memory_embedding.transpose(0, 1)
        else:
            points, labels = self._no_prompt(frame)
            current = self._remember(features, places, before, count)
        masks, pointer, appears = self._decode(current, details, points, labels, prompted=first)
        memory = self._memorise(features, masks, appears, prompted=first)
        scores = torch.cat([torch.zeros_like(masks[:1]), masks]).transpose(0, 1)
        written = (memory, pointer)
        return (scores, *(written if first else ()), *written, count + 1)

    def _encode(self, frame: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Coarsest features and their places ``[N, h*w, C]``, finer maps ``[N, C, h, w]``."""
        network, count = self.network, self.objects
        found = network.get_image_features(self.normalise(frame), return_dict=True)
        maps = [tokens.transpose(0, 1) for tokens in found.fpn_hidden_states]
        sizes = network.backbone_feature_sizes
        fine = [
            tokens.transpose(1, 2).unflatten(2, tuple(size)).expand(count, -1, -1, -1)
            for tokens, size in zip(maps[:-1], sizes[:-1], strict=True)
        ]
        places = found.fpn_position_encoding[-1].transpose(0, 1)
        return maps[-1].expand(count, -1, -1), places.expand(count, -1, -1), fine

    def _no_prompt(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        points = torch.zeros(self.objects, 1, 2, device=frame.device, dtype=self.mean.dtype)
        return points, torch.full((self.objects, 1), -1, dtype=torch.int32, device=frame.device)

    def _remember(
        self, features: Tensor, places: Tensor, state: list[Tensor], count: Tensor
    ) -> Tensor:
        """Features that attended to the memories there are, ``[N, h*w, C]``."""
        network, rest = self.network, self.memories - 1
        first_memory, first_pointer = state[:2]
        memories, pointers = [first_memory, *state[2 : 2 + rest]], state[2 + rest :]
        ages = range(rest, 0, -1)
        temporal = network.memory_temporal_positional_encoding[:, 0]
        spatial = self._latent_places(first_memory)
        offsets = [-1, *(age - 1 for age in ages)]  # the first frame has the last encoding
        tokens = first_memory.shape[1]
        blocked = [count[0] * 0, *(self._missing(age, count) for age in ages)]
        there = torch.cat([entry.repeat_interleave(tokens) for entry in blocked])
        pointer_ages = [count[0], *(count[0] * 0 + age for age in range(1, self.pointers))]
        vectors, codes = self._split(
            torch.stack([first_pointer, *pointers], 1), torch.cat(pointer_ages)
        )
        absent = [count[0] * 0, *(self._missing(age, count) for age in range(1, self.pointers))]
        parts = network.hidden_dim // network.mem_dim
        bias = torch.cat([there, torch.cat(absent).repeat_interleave(parts)]) * BLOCKED
        keys = torch.cat([*memories, vectors], 1)
        coded = torch.cat([*(spatial + temporal[offset] for offset in offsets), codes], 1)
        return self._attend(features + 0.1 * places, keys, keys + coded, bias, vectors.shape[1])

    def _missing(self, age: int, count: Tensor) -> Tensor:
        """1 where the frame ``age`` before was not tracked: it is the first, or before it."""
        return (count[0] < age + 1).to(count.dtype)

    def _latent_places(self, memory: Tensor) -> Tensor:
        """Position encoding of a memory's tokens, ``[1, L, M]``."""
        config, perceiver = self.network.config, self.network.spatial_perceiver
        side = round(config.perceiver_resampler_num_latents_2d**0.5)
        shape = torch.Size((1, memory.shape[2], side, side))
        grid = perceiver.positional_encoding(shape, memory.device, memory.dtype)
        plain = torch.zeros_like(memory[:1, : config.perceiver_resampler_num_latents])
        return torch.cat([plain, grid.flatten(2).transpose(1, 2)], 1)

    def _split(self, pointers: Tensor, ages: Tensor) -> tuple[Tensor, Tensor]:
        """Pointers ``[N, F, C]`` as tokens of the memory's width, and their temporal code."""
        network = self.network
        parts = network.hidden_dim // network.mem_dim
        tokens = pointers.reshape(pointers.shape[0], -1, network.mem_dim)
        codes = torch.zeros_like(tokens[:1])
        if network.config.enable_temporal_pos_encoding_for_object_pointers:
            waves = get_1d_sine_pe(ages / (self.pointers - 1), dim=network.hidden_dim)
            projected = network.temporal_positional_encoding_projection_layer(waves)
            codes = projected.repeat_interleave(parts, dim=0)[None]
        return tokens, codes

    def _attend(
        self, output: Tensor, values: Tensor, keys: Tensor, bias: Tensor, pointers: int
    ) -> Tensor:
        """Memory attention as in transformers, with a bias that hides memories."""
        attention = self.network.memory_attention
        output = output[:, None]
        own = attention.rotary_emb(output, attention.position_ids)
        theirs = attention.rotary_emb(output, attention.position_ids_k)
        for layer in attention.layers:
            query = layer.layer_norm1(output)
            shared = {"query": query, "key": query, "value": query}
            output = output + layer.self_attn(**shared, position_embeddings=own)[0]
            look, query = layer.cross_attn_image, layer.layer_norm2(output)
            heads = (look.num_attention_heads, look.head_dim)
            q, k, v = (
                project(tokens).flatten(0, -3).unflatten(-1, heads).transpose(1, 2)
                for project, tokens in (
                    (look.q_proj, query),
                    (look.k_proj, keys[:, None]),
                    (look.v_proj, values[:, None]),
                )
            )
            q, k = apply_rotary_pos_emb_2d_cross_attn(
                q,
                k,
                *own,
                *theirs,
                repeat_freqs_k=self.memories,
                num_k_exclude_rope=pointers,
            )
            weights = (q @ k.transpose(2, 3) * look.scaling + bias).softmax(-1)
            found = (weights @ v).transpose(1, 2).flatten(2)[:, None]
            output = output + look.o_proj(found)
            output = output + layer.mlp(layer.layer_norm3(output))
        normed: Tensor = attention.layer_norm(output)
        return normed[:, 0]

    def _decode(
        self,
        features: Tensor,
        details: list[Tensor],
        points: Tensor,
        labels: Tensor,
        *,
        prompted: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits ``[N, 1, h, w]``, pointers ``[N, C]``, whether the objects appear."""
        network = self.network
        several = network._use_multimask(
            prompted, {"point_labels": labels[:, None]} if prompted else None
        )
        sparse, dense = network.prompt_encoder(
            input_points=points[:, None],
            input_labels=labels[:, None],
            input_boxes=None,
            input_masks=None,
        )
        height, width = network.backbone_feature_sizes[-1]
        places = network.get_image_wide_positional_embeddings().expand(self.objects, -1, -1, -1)
        masks, quality, tokens, appears = network.mask_decoder(
            image_embeddings=features.transpose(1, 2).unflatten(2, (height, width)),
            image_positional_embeddings=places,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            high_resolution_features=details,
        )
        seen = (appears[:, 0] > 0).to(masks.dtype)
        best = quality[:, 0].argmax(-1)
        chosen = _take(masks[:, 0], best)[:, None]
        chosen = torch.where(seen[:, :, None, None] > 0, chosen, NO_OBJ_SCORE)
        token = _take(tokens[:, 0], best if tokens.shape[2] > 1 else best * 0)
        pointer = network.object_pointer_proj(token)
        return chosen, seen * pointer + (1 - seen) * network.no_object_pointer, appears

    def _memorise(
        self, features: Tensor, masks: Tensor, appears: Tensor, *, prompted: bool
    ) -> Tensor:
        """Memory of the frame ``[N, L, M]``."""
        network, config = self.network, self.network.config
        side = network.image_size
        full = F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=False)
        shown = (full > 0).to(full.dtype) if prompted else full.sigmoid()
        shown = shown * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        height, width = network.backbone_feature_sizes[-1]
        maps = features.transpose(1, 2).unflatten(2, (height, width))
        memory, places = network.memory_encoder(maps, shown)
        if network.occlusion_spatial_embedding_parameter is not None:
            hidden = (appears <= 0).to(memory.dtype)[..., None]
            memory = (
                memory + hidden * network.occlusion_spatial_embedding_parameter[..., None, None]
            )
        return self._condense(memory, places)

    def _condense(self, memory: Tensor, places: Tensor) -> Tensor:
        """The perceiver's tokens of ``[N, M, h, w]``; transformers' own takes one object."""
        perceiver, count = self.network.spatial_perceiver, len(memory)
        parts = []
        if perceiver.num_latents_1d > 0:
            parts.append(perceiver._forward_1d(memory, places)[0])
        if perceiver.num_latents_2d > 0:
            cells = round(perceiver.num_latents_2d**0.5)
            windows, _ = window_partition(memory.permute(0, 2, 3, 1), memory.shape[2] // cells)
            latents = perceiver.latents_2d.repeat(count, 1)[:, None]
            for layer in perceiver.layers:
                latents = layer(latents, windows.flatten(1, 2), positional_encoding=None)
            parts.append(perceiver.layer_norm(latents.reshape(count, -1, memory.shape[1])))
        return torch.cat(parts, 1)


def _take(entries: Tensor, index: Tensor) -> Tensor:
    """``entries[i, index[i]]`` for every i."""
    shape = (len(entries), 1, *entries.shape[2:])
    where = index.reshape(-1, *[1] * (entries.dim() - 1)).expand(shape)
    return entries.gather(1, where)[:, 0]
