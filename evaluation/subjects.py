"""What is evaluated: a bundle or a checkpoint, opened by its path."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from streamseg.errors import BundleError, CheckpointError
from streamseg.evaluation.segmenter import BundleSegmenter, Segmenter, SegmenterOptions
from streamseg.installation import install_command

HUB = "hf:"
_FOR_BUNDLES = ("backend", "native", "precision")
_UNSET = SegmenterOptions()
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".pkl")


def parse_subject(text: str, options: SegmenterOptions) -> tuple[Path, SegmenterOptions]:
    """Split ``PATH[@HOW]``; HOW is ``native``, ``no-native`` or a backend's name.

    A path that exists as written is taken whole, whatever it contains.
    """
    path, at, how = text.rpartition("@")
    # After a name on the hub stands its revision; checkpoints have no HOW.
    if not at or text.startswith(HUB) or Path(text).exists():
        return Path(text), options
    if how in ("native", "no-native"):
        return Path(path), replace(options, native=how == "native")
    if how == "lowered":
        raise BundleError(f"{text}: '@lowered' was removed; write {path}@no-native")
    return Path(path), replace(options, backend=how)


def is_bundle(path: Path) -> bool:
    """Whether a subject is a bundle rather than a checkpoint, which may be a folder too."""
    if (path / "manifest.json").exists():
        return True
    return path.is_dir() and not any(
        entry.suffix in WEIGHTS or entry.name == "config.json" for entry in path.iterdir()
    )


def open_pair(
    a: str, b: str, options: SegmenterOptions, stack: ExitStack
) -> tuple[Segmenter, Segmenter]:
    """Open the two subjects of a comparison; settings concern the checkpoints among them.

    Raises:
        BundleError: settings are given and both are bundles; see also ``open_segmenter``.
    """
    subjects = [parse_subject(text, options) for text in (a, b)]
    if not all(is_bundle(path) for path, _ in subjects):
        subjects = [
            (path, replace(parsed, settings={}) if is_bundle(path) else parsed)
            for path, parsed in subjects
        ]
    first, second = (stack.enter_context(open_segmenter(*subject)) for subject in subjects)
    first.name, second.name = a, b
    return first, second


def open_segmenter(path: Path, options: SegmenterOptions) -> Segmenter:
    """Open a bundle, or what ``load_model`` takes, which needs the ``export`` extra.

    That is a checkpoint (file, folder, hub name) or a function that builds a network.

    Raises:
        BundleError: nothing there, or a damaged bundle.
        CheckpointError: a checkpoint without ``size``, without PyTorch, or that cannot be read.
    """
    size = _check(path, options)
    if size is None:
        return BundleSegmenter(path, options)
    try:
        from streamseg.evaluation.torch_segmenter import CheckpointSegmenter
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a checkpoint, and running one needs PyTorch ({error}). "
            f"Run: {install_command('export')}, or give a bundle"
        ) from error
    return CheckpointSegmenter(path, options, size)


def require_subjects(texts: Sequence[str], options: SegmenterOptions) -> None:
    """Check that the subjects exist and have their options, before anything large is imported.

    Raises:
        BundleError, CheckpointError: as ``open_segmenter``; or a backend, native operators or a
            precision are chosen for checkpoints, which PyTorch runs.
    """
    parsed = [parse_subject(text, options) for text in texts]
    for path, chosen in parsed:
        _check(path, chosen)
    any_bundle = any(is_bundle(path) for path, _ in parsed)
    for path, chosen in parsed:
        named = [name for name in _FOR_BUNDLES if getattr(chosen, name) != getattr(_UNSET, name)]
        if named and not is_bundle(path) and not (any_bundle and chosen == options):
            raise CheckpointError(
                f"{path} is a checkpoint, which PyTorch runs: --{named[0]} is for bundles. "
                f"Leave it out, or export {path.name} first"
            )


def _check(path: Path, options: SegmenterOptions) -> tuple[int, int] | None:
    """Frame size of a checkpoint; None for a bundle."""
    if is_bundle(path):
        return None
    if not path.exists() and ":" not in path.name and not str(path).startswith(HUB):
        raise BundleError(f"{path} does not exist: expected a bundle or a checkpoint")
    if options.size is None:
        raise CheckpointError(
            f"{path} is a checkpoint, which does not record its frame size: add --size HxW"
        )
    return options.size
