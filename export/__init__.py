"""Models, checkpoint import and export to a bundle."""

from streamseg.export.bundles import ExportReport, export_bundle
from streamseg.export.checkpoint import load_checkpoint, save_checkpoint
from streamseg.export.step import StepModel

__all__ = ["ExportReport", "StepModel", "export_bundle", "load_checkpoint", "save_checkpoint"]
