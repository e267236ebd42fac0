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
from safetensors.torch import save_file
from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.classes import read_classes
from streamseg.export.models.keys import below
from streamseg.export.models.tv3s import TV3S, infer_tv3s, tv3s_keys
from streamseg.export.step import StepModel, WeightsOrigin

logger = logging.getLogger(__name__)

# Derived from sizes or used in training only.
IGNORED_SUFFIXES = (".num_batches_tracked", ".relative_position_index")
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
    window: int | tuple[int, int] = 20,
    shift: int | tuple[int, int] = 10,
) -> StepModel:
    """Import a checkpoint with published key names.

    The architecture is read off tensor names and shapes. Weights are widened to float32.

    Args:
        path: mmcv layout (``{"meta", "state_dict"}``), bare state dict, or safetensors.
        window: window of the temporal blocks in map tokens (height and width, or one for both);
            a checkpoint does not tell it.
        shift: cut of the odd layers' grid, 0 to ``window - 1``.
    Raises:
        CheckpointError: unreadable, not of a known model, or with missing or unexpected keys; a
            window or shift out of range.
    """
    window, shift = _check_windows(window, shift)
    checkpoint = read_checkpoint(Path(path))
    weights = {key: _widen(value) for key, value in checkpoint.weights.items()}
    if not any(key.startswith("decode_head.vs.") for key in weights):
        raise CheckpointError(
            f"{path} is no TV3S checkpoint: it has no decode_head.vs.* keys. "
            f"It holds: {_summary(weights)}"
        )
    try:
        model = _build_tv3s(weights, window=window, shift=shift)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.classes = read_classes(checkpoint.meta, model.num_classes)
    model.origin = WeightsOrigin(
        source=checkpoint.path.name,
        license=str(checkpoint.meta.get("license", "unknown")),
        sha256=_file_digest(checkpoint.path),
        ignored=tuple(sorted(key for key in weights if key.endswith(IGNORED_SUFFIXES))),
    )
    for key in model.origin.ignored:
        logger.debug("ignored key %s", key)
    return model


def published_weights(model: StepModel) -> dict[str, Tensor]:
    """The model's tensors under published key names, as ``load_checkpoint`` reads them."""
    if not isinstance(model, TV3S):
        raise CheckpointError(f"no published key names are known for family '{model.family}'")
    own = model.state_dict()
    encoder, head = tv3s_keys(model.config)
    return {
        **{f"backbone.{k}": v for k, v in encoder.restore(below(own, "backbone.")).items()},
        **{f"decode_head.{k}": v for k, v in head.restore(below(own, "decode_head.")).items()},
    }


def save_checkpoint(
    model: StepModel, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the model's weights as safetensors under published key names."""
    weights = {key: value.detach().contiguous() for key, value in published_weights(model).items()}
    save_file(weights, os.fspath(path), metadata=dict(metadata or {}))


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
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        weights = content["state_dict"]
        meta = content["meta"] if isinstance(content.get("meta"), Mapping) else {}
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected named tensors")
    tensors = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; its keys: {_summary(weights)}")
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
    named = re.search(r"(?:GLOBAL|class) (\S+) was not", str(error))
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


def _build_tv3s(
    weights: Mapping[str, Tensor], *, window: tuple[int, int], shift: tuple[int, int]
) -> TV3S:
    config = infer_tv3s(weights, window=window, shift=shift)
    # Building on "meta" would skip buffers, so build for real and overwrite.
    model = TV3S(config)
    own: dict[str, Tensor] = {}
    unexpected = [key for key in weights if not key.startswith(("backbone.", "decode_head."))]
    maps = dict(zip(("backbone.", "decode_head."), tv3s_keys(config), strict=True))
    for prefix, keys in maps.items():
        found, unknown = keys.translate(below(weights, prefix))
        own.update({prefix + key: value for key, value in found.items()})
        unexpected += [prefix + key for key in unknown]
    unexpected = [key for key in unexpected if not key.endswith(IGNORED_SUFFIXES)]
    expected = model.state_dict()
    missing = [
        prefix + keys.published(key.removeprefix(prefix))
        for prefix, keys in maps.items()
        for key in expected
        if key.startswith(prefix) and key not in own and not key.endswith(IGNORED_SUFFIXES)
    ]
    if missing or unexpected:
        raise CheckpointError(
            "the keys do not fit a TV3S network: "
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
    return model


def _listing(keys: list[str], most: int = 12) -> str:
    names = sorted(set(keys))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _summary(weights: Mapping[str, Any], most: int = 6) -> str:
    heads = sorted({".".join(str(key).split(".")[:2]) + ".*" for key in weights})
    return ", ".join(heads[:most]) + (", ..." if len(heads) > most else "")


def _file_digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
