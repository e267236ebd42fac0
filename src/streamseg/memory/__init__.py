"""A memory for networks without one; see docs/memory.md."""

from __future__ import annotations

from streamseg.export.smoothing import PRESETS, SmoothingConfig, remember

__all__ = ["PRESETS", "SmoothingConfig", "remember"]
