"""Pictures: resize and overlay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.runtime.video.overlay import Overlay
    from streamseg.runtime.video.resize import FrameFitter, Placement

__all__ = [
    "FrameFitter",
    "Overlay",
    "Placement",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "FrameFitter": "runtime.video.resize",
        "Overlay": "runtime.video.overlay",
        "Placement": "runtime.video.resize",
    },
)
