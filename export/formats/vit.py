"""Layouts of plain ViTs, as the hub has them; the last norm, which is read here, has another name.

Published: ``backbone.layer.0.attention.q_proj`` (DINOv3) and
``backbone.encoder.layer.0.attention.attention.query`` (DINOv2).
"""

from __future__ import annotations

from streamseg.export.formats.renaming import Rule, same

PUBLISHED = same(
    "backbone.embeddings.{rest}",
    "backbone.layer.{rest}",
    "backbone.encoder.layer.{rest}",
    "backbone.last_norm",
    "backbone.pyramid.{rest}",
)

TRANSFORMERS = (
    *PUBLISHED,
    Rule("backbone.norm", "backbone.last_norm"),
    Rule("backbone.layernorm", "backbone.last_norm"),
)
