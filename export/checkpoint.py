"""Checkpoint import: published key names in, a StepModel out, nothing unpickled that could run."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.families import BuildOptions, recognise, summarise
from streamseg.export.formats.key_map import below
from streamseg.export.palettes import read_classes
from streamseg.export.step import StepModel, WeightsOrigin
from streamseg.files import whole_file

logger = logging.getLogger(__name__)

# Derived from sizes or used in training only.
_IGNORED = re.compile(
    r"\.(num_batches_tracked|relative_position_index(_clips)?(_\d+)?|valid_ind_rolled)$"
    r"|^criterion\."
)
PREFIXES = ("module.", "model.")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under published names, and the ``meta`` that came with them."""

    path: Path
    weights: dict[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    family: str | None = None,
    window: int | tuple[int, int] = 20,
    shift: int | tuple[int, int] = 10,
    keep_ratio: float | None = None,
    key_every: int = 5,
) -> StepModel:
    """Import a checkpoint with published key names.

    The system and its architecture are read off tensor names and shapes. Weights are widened to
    float32. What a checkpoint does not tell is asked for here.

    Args:
        path: mmcv layout (``{"meta", "state_dict"}``), bare state dict, or safetensors.
        family: refuse a checkpoint of any other system, one of ``FAMILIES``.
        window: TV3S: window of the temporal blocks in map tokens (height and width, or one for
            both).
        shift: TV3S: cut of the odd layers' grid, 0 to ``window - 1``.
        keep_ratio: MRCFA: share of reference tokens that are kept; ``None`` is the published one.
        key_every: MPVSS: a key frame at every so many frames.
    Raises:
        CheckpointError: unreadable, not of a known model, with missing or unexpected keys, or with
            values that are not finite; an option out of range.
    """
    windows, shifts = _check_windows(window, shift)
    options = BuildOptions(windows, shifts, keep_ratio, key_every)
    checkpoint = read_checkpoint(Path(path))
    weights = {key: _widen(value) for key, value in checkpoint.weights.items()}
    try:
        found = recognise(weights)
        if family not in (None, found.name):
            raise CheckpointError(f"it is a {found.name} checkpoint, not {family}")
        # Building on "meta" would skip buffers, so build for real and overwrite.
        model = found.build(weights, options)
        fill(model, weights)
        _require_finite(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.classes = read_classes(checkpoint.meta, model.num_classes)
    model.origin = WeightsOrigin(
        source=checkpoint.path.name,
        license=str(checkpoint.meta.get("license", "unknown")),
        sha256=_file_digest(checkpoint.path),
        ignored=tuple(sorted(filter(_is_ignored, weights))),
    )
    for key in model.origin.ignored:
        logger.debug("ignored key %s", key)
    return model


def _require_finite(weights: Mapping[str, Tensor]) -> None:
    bad = [key for key, value in weights.items() if not _is_ignored(key) and not is_finite(value)]
    if bad:
        raise CheckpointError(
            f"{len(bad)} of its tensors are not finite, {bad[0]} first: the training "
            "diverged, or a value is too large for its float16"
        )


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; one of integers does not."""
    return not value.is_floating_point() or bool(value.isfinite().all())


def published_weights(model: StepModel) -> dict[str, Tensor]:
    """The model's tensors under published key names, as ``load_checkpoint`` reads them."""
    own = model.state_dict()
    return {
        prefix + name: value
        for prefix, keys in model.published_keys().items()
        for name, value in keys.restore(below(own, prefix)).items()
    }


def save_checkpoint(
    model: StepModel,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
) -> None:
    """Write the model's weights as safetensors under published key names, in float16 if asked.

    Raises:
        CheckpointError: the file cannot be written; one that was there stays.
    """
    weights = {key: value.detach().contiguous() for key, value in published_weights(model).items()}
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    with whole_file(Path(path), CheckpointError) as draft:
        draft.write_bytes(save(weights, metadata=dict(metadata or {})))


def _check_windows(
    window: int | tuple[int, int], shift: int | tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    windows = (window, window) if isinstance(window, int) else window
    shifts = (shift, shift) if isinstance(shift, int) else shift
    if min(windows) < 1:
        raise CheckpointError(f"window is {window}, expected 1 or more")
    if any(not 0 <= s < w for s, w in zip(shifts, windows, strict=True)):
        raise CheckpointError(f"shift is {shift}, expected 0 to window - 1 (window is {window})")
    return windows, shifts


def read_checkpoint(path: Path) -> Checkpoint:
    """Read tensors and meta, refusing anything that would have to run code.

    Raises:
        CheckpointError: absent, not a checkpoint, truncated, or a pickle of more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}" + (": a folder" if path.is_dir() else ""))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            # A plain pickle brings a warning about its protocol before it fails.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is no readable checkpoint ({path.stat().st_size} bytes; truncated?): {reason}"
        ) from None
    meta: Mapping[str, Any] = {}
    weights = content
    if isinstance(content, Mapping):
        # "model": how Swin's ImageNet classifiers were published.
        for name in ("state_dict", "model"):
            if isinstance(content.get(name), Mapping):
                weights = content[name]
                meta = content["meta"] if isinstance(content.get("meta"), Mapping) else {}
                break
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected named tensors")
    tensors = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; its keys: {summarise(weights)}")
    return Checkpoint(path, _strip_prefix(tensors), meta)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            meta = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from None
    return Checkpoint(path, _strip_prefix(tensors), meta)


def _refusal(path: Path, error: Exception) -> CheckpointError:
    named = re.search(r"(?:GLOBAL|class) (\S+) (?:was not|whose module)", str(error))
    if named is None:
        return CheckpointError(
            f"{path} is no checkpoint: neither a file of torch.save nor safetensors"
        )
    return CheckpointError(
        f"{path} needs {named[1]} to load, which could run code, so it is refused. On a machine "
        "where you trust the file, load it with torch.load(..., weights_only=False) and store its "
        "state dict with safetensors.torch.save_file"
    )


def _strip_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefix that a wrapper put before every key."""
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in weights):
            return below(weights, prefix)
    return weights


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def fill(model: StepModel, weights: Mapping[str, Tensor]) -> None:
    """Put ``weights``, under published names, into ``model``.

    Raises:
        CheckpointError: a key is missing, unexpected or of another shape.
    """
    own: dict[str, Tensor] = {}
    maps = model.published_keys()
    unexpected = [key for key in weights if not key.startswith(tuple(maps))]
    for prefix, keys in maps.items():
        found, unknown = keys.translate(below(weights, prefix))
        own.update({prefix + key: value for key, value in found.items()})
        unexpected += [prefix + key for key in unknown]
    unexpected = [key for key in unexpected if not _is_ignored(key)]
    expected = model.state_dict()
    missing = [
        prefix + keys.published(key.removeprefix(prefix))
        for prefix, keys in maps.items()
        for key in expected
        if key.startswith(prefix) and key not in own and not _is_ignored(key)
    ]
    if missing or unexpected:
        raise CheckpointError(
            f"the keys do not fit a {model.family} network: "
            + "; ".join(
                f"{what}: {_listing(keys)}"
                for what, keys in (("missing", missing), ("unexpected", unexpected))
                if keys
            )
        )
    for key, value in own.items():
        if key in expected and value.shape != expected[key].shape:
            raise CheckpointError(
                f"{key} has shape {list(value.shape)}, expected {list(expected[key].shape)}"
            )
    model.load_state_dict(own, strict=False)


def _is_ignored(key: str) -> bool:
    return _IGNORED.search(key) is not None


def _listing(keys: list[str], most: int = 12) -> str:
    names = sorted(set(keys))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _file_digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
