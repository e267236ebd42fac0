"""How a checkpoint becomes a bundle: the options of ``streamseg export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamseg.errors import ExportError
from streamseg.option_fields import option, precision_option

Precision = Literal["fp32", "fp16", "bf16", "int8-dynamic"]
SMOOTHED = ("gated", "warped")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write.

    Attributes:
        size: (H, W) that the graphs run at.
        precision: see ``export_bundle``.
        memory: ``gated`` or ``warped`` smooths the scores of a per-frame network over time; a file
            is what ``streamseg train --memory-for`` trained for a bundle.
        logits: also output float32 logits.
        letterbox: have the runtime keep the aspect of frames.
        batch: streams that one step serves.
    """

    size: tuple[int, int] | None = option("Frame size of the model.", default=None, common=True)
    precision: Precision = precision_option(default="fp32", common=True)
    memory: str | None = option(
        "Smooth a per-frame network's scores over time, or give a BUNDLE the memory that train "
        "--memory-for trained; see docs/memory.md.",
        default=None,
        metavar="gated|warped|FILE",
    )
    logits: bool = option("Also output float32 logits.", default=False)
    letterbox: bool = option(
        "Keep the aspect ratio of frames, or stretch them.", default=False, opposite="stretch"
    )

    batch: int = option(
        "Streams (export) or clips over all processes (train) per step.",
        default=1,
        low=1,
        metavar="N",
    )

    def __post_init__(self) -> None:
        if self.memory not in (None, *SMOOTHED) and not Path(str(self.memory)).is_file():
            raise ExportError(
                f"memory is {self.memory!r}: expected {', '.join(SMOOTHED)} or a file of weights"
            )

    @property
    def resize(self) -> str:
        """The manifest's word for ``letterbox``."""
        return "letterbox" if self.letterbox else "stretch"
