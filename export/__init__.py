"""Models, checkpoint import and export to a bundle.

Names are imported on first use: building engines on a device
(``streamseg.export.engine_build``) needs no torch.

The package is callable: ``streamseg.export(checkpoint, out, size=(512, 1024))`` is
``export_checkpoint``, which ``streamseg export`` on the command line does too.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.export.bundles import ExportReport, export_bundle
    from streamseg.export.checkpoint import load_checkpoint, save_checkpoint
    from streamseg.export.exporting import export_checkpoint
    from streamseg.export.factory import load_model
    from streamseg.export.families import Family
    from streamseg.export.formats.key_map import KeyMap, same_names
    from streamseg.export.settings import setting, settings_of
    from streamseg.export.step import GraphPlan, InputConfig, StepModel, WeightsOrigin
    from streamseg.runtime.bundle.manifest import ScheduleRow
    from streamseg.runtime.bundle.state import StateSpec

__all__ = [
    "ExportReport",
    "Family",
    "GraphPlan",
    "InputConfig",
    "KeyMap",
    "ScheduleRow",
    "StateSpec",
    "StepModel",
    "WeightsOrigin",
    "export_bundle",
    "export_checkpoint",
    "load_checkpoint",
    "load_model",
    "same_names",
    "save_checkpoint",
    "setting",
    "settings_of",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "ExportReport": "export.bundles",
        "Family": "export.families",
        "GraphPlan": "export.step",
        "InputConfig": "export.step",
        "KeyMap": "export.formats.key_map",
        "ScheduleRow": "runtime.bundle.manifest",
        "StateSpec": "runtime.bundle.state",
        "StepModel": "export.step",
        "WeightsOrigin": "export.step",
        "export_bundle": "export.bundles",
        "export_checkpoint": "export.exporting",
        "load_checkpoint": "export.checkpoint",
        "load_model": "export.factory",
        "same_names": "export.formats.key_map",
        "save_checkpoint": "export.checkpoint",
        "setting": "export.settings",
        "settings_of": "export.settings",
    },
)


class _CallablePackage(ModuleType):
    """``streamseg.export`` is this package and the front door's function of the same name."""

    def __call__(self, *arguments: Any, **options: Any) -> ExportReport:
        """Call ``export_checkpoint``."""
        from streamseg.export.exporting import export_checkpoint

        return export_checkpoint(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
