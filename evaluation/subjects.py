"""What is evaluated: a bundle or a checkpoint, opened by its path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from streamseg.errors import BundleError, CheckpointError
from streamseg.evaluation.segmenter import BundleSegmenter, Segmenter, SegmenterOptions


def parse_subject(text: str, options: SegmenterOptions) -> tuple[Path, SegmenterOptions]:
    """Split ``PATH[@HOW]``; HOW is ``native``, ``lowered`` or a backend's name.

    A path that exists as written is taken whole, whatever it contains.
    """
    path, at, how = text.rpartition("@")
    if not at or Path(text).exists():
        return Path(text), options
    if how in ("native", "lowered"):
        return Path(path), replace(options, native=how == "native")
    return Path(path), replace(options, backend=how)


def open_segmenter(path: Path, options: SegmenterOptions) -> Segmenter:
    """Open a bundle (a folder) or a checkpoint (a file; needs the ``export`` extra).

    Raises:
        BundleError: nothing there, or a damaged bundle.
        CheckpointError: a checkpoint without ``size``, without PyTorch, or that cannot be read.
    """
    if path.is_dir():
        return BundleSegmenter(path, options)
    if not path.is_file():
        raise BundleError(f"{path} does not exist: expected a bundle or a checkpoint")
    if options.size is None:
        raise CheckpointError(
            f"{path} is a checkpoint, which does not tell its frame size: add --size HxW"
        )
    try:
        from streamseg.evaluation.torch_segmenter import CheckpointSegmenter
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a checkpoint, and running one needs PyTorch ({error}): "
            "pip install 'streamseg[export]', or give a bundle"
        ) from error
    return CheckpointSegmenter(path, options, options.size)
