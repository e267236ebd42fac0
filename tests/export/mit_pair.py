"""Our MiT encoder and transformers' with the same weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerModel

from streamseg.export.models.mit import MiTConfig, MiTEncoder


class Coarsest(nn.Module):
    """An encoder's last map."""

    def __init__(self, encoder: MiTEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.encoder(pixels)[-1]
        return found


def encoder_pair(sizes: MiTConfig) -> tuple[Coarsest, SegformerModel]:
    """Seeded weights; both give the coarsest map."""
    torch.manual_seed(0)
    ours = MiTEncoder(sizes)
    config = SegformerConfig(
        hidden_sizes=list(sizes.widths),
        depths=list(sizes.depths),
        num_attention_heads=list(sizes.heads),
        sr_ratios=list(sizes.reductions),
        mlp_ratios=list(sizes.mlp_ratios),
    )
    theirs = SegformerModel(config).requires_grad_(False).eval()
    names = theirs.stages.state_dict()
    theirs.stages.load_state_dict(dict(zip(names, ours.stages.state_dict().values(), strict=True)))
    return Coarsest(ours), theirs
