"""Models, checkpoint import and export to a bundle.

Names are imported when asked for: building engines on a device
(``streamseg.export.engine_build``) needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamseg.export.bundles import ExportReport, export_bundle
    from streamseg.export.checkpoint import load_checkpoint, save_checkpoint
    from streamseg.export.step import StepModel

__all__ = ["ExportReport", "StepModel", "export_bundle", "load_checkpoint", "save_checkpoint"]

_HOMES = {
    "ExportReport": "bundles",
    "StepModel": "step",
    "export_bundle": "bundles",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(module, name)
