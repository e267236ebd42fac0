"""How a checkpoint becomes a bundle: the options of ``streamseg export``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamseg.option_fields import option, precision_option

Precision = Literal["fp32", "fp16", "bf16", "int8-dynamic"]
Memory = Literal["gated", "warped"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write.

    Attributes:
        size: (H, W) that the graphs run at.
        precision: see ``export_bundle``.
        memory: smooths the scores of a per-frame network over time; see ``PRESETS``.
        logits: also output float32 logits.
        letterbox: have the runtime keep the aspect of frames.
    """

    size: tuple[int, int] | None = option("Frame size of the model.", default=None, common=True)
    precision: Precision = precision_option(default="fp32", common=True)
    memory: Memory | None = option(
        "Smooth a per-frame network's scores over time; see docs/memory.md.", default=None
    )
    logits: bool = option("Also output float32 logits.", default=False)
    letterbox: bool = option(
        "Keep the aspect ratio of frames, or stretch them.", default=False, opposite="stretch"
    )

    @property
    def resize(self) -> str:
        """The manifest's word for ``letterbox``."""
        return "letterbox" if self.letterbox else "stretch"
