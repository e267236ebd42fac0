"""From a checkpoint to a bundle in one call; at the front door as ``streamseg.export``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamseg.errors import ExportError
from streamseg.export.batched_bundle import batch_bundle
from streamseg.export.bundles import ExportReport, export_bundle
from streamseg.export.factory import load_model
from streamseg.export.smoothing import PRESETS, remember
from streamseg.export.step import Size


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: Size,
    settings: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    memory: str | None = None,
    logits: bool = False,
    letterbox: bool = False,
    batch: int = 1,
) -> ExportReport:
    """Turn a checkpoint into a bundle, as ``streamseg export`` does.

    Args:
        checkpoint: a file, a folder as transformers writes it, ``hf:ORG/NAME``, or
            ``package.module:function``; see ``load_model``.
        out: folder to write; an older bundle there is replaced, anything else refused.
        size: (H, W) that the graph runs at.
        settings: settings that the file does not record, such as ``{"window": 20}``.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8-dynamic``; see ``export_bundle``.
        memory: ``gated`` or ``warped`` smooths the scores of a per-frame network over time.
        logits: also output float32 logits.
        letterbox: have the runtime keep the aspect of frames.
        batch: streams that one step serves; for GPUs.
    Returns:
        The bundle's path, its size, and how far it is from PyTorch.
    Raises:
        CheckpointError: the checkpoint cannot be read, or settings are missing or wrong.
        ExportError: the size or the precision is not possible, or the bundle's outputs differ from
            PyTorch's.
        BundleError: ``out`` cannot be written.
    """
    if memory is not None and memory not in PRESETS:
        raise ExportError(f"memory is '{memory}', expected one of {', '.join(PRESETS)}")
    model = load_model(checkpoint, settings=settings)
    if memory is not None:
        model = remember(model, PRESETS[memory])

    def write(path: str | os.PathLike[str]) -> ExportReport:
        resize = "letterbox" if letterbox else "stretch"
        return export_bundle(
            model, path, size=size, logits=logits, resize=resize, precision=precision
        )

    if batch == 1:
        return write(out)
    with tempfile.TemporaryDirectory(prefix="streamseg-") as scratch:
        report = write(Path(scratch) / "single")
        manifest = batch_bundle(report.path, out, batch)
    return replace(report, path=Path(out), parity=manifest.parity)
