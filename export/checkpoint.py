"""Checkpoint import: published key names in, a StepModel out, nothing unpickled that could run."""

from __future__ import annotations

import hashlib
import json
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
from streamseg.export.binary_heads import (
    THRESHOLD,
    as_two_classes,
    binary_meta,
    has_one_channel,
    require_classes,
)
from streamseg.export.families import encoder_name, recognise, summarise
from streamseg.export.formats.key_map import below
from streamseg.export.palettes import read_classes
from streamseg.export.settings import contradictions, resolve
from streamseg.export.step import StepModel, WeightsOrigin
from streamseg.files import whole_file

logger = logging.getLogger(__name__)

# Derived from sizes or used in training only.
_IGNORED = re.compile(
    r"\.(num_batches_tracked|relative_position_index(_clips)?(_\d+)?|valid_ind_rolled)$"
    r"|^criterion\."
)
# Entry of a safetensors file's metadata: the network's configuration as JSON.
MODEL = "model"
PREFIXES = ("module.", "model.")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under published names, and what came with them.

    Attributes:
        path: of the file.
        weights: published name -> tensor.
        meta: class names, palette, licence and the like, as mmcv names them.
        stated: what the file says of its network: settings (``window``, ``offsets``, ``mean``, ...)
            and whatever else ``StepModel.configuration`` has, by the same names.
    """

    path: Path
    weights: dict[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    family: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> StepModel:
    """Import a checkpoint with published key names.

    The system and its architecture are read off tensor names and shapes. Weights are widened to
    float32. Settings that shapes do not show (``export.settings``) are read from the file, from
    ``settings``, or taken from the publication; the last are listed in the model's ``assumed``.

    Args:
        path: mmcv layout (``{"meta", "state_dict"}``), bare state dict, or safetensors.
        family: refuse a checkpoint of any other system, one of ``FAMILIES``.
        settings: name -> value or text, such as ``{"window": 2, "shift": 1}``.
    Raises:
        CheckpointError: unreadable, not of a known model, with missing or unexpected keys, or with
            values that are not finite; a setting that is unknown, out of range, missing, or in
            contradiction to the file.
    """
    checkpoint = read_checkpoint(Path(path))
    weights = {key: _widen(value) for key, value in checkpoint.weights.items()}
    try:
        found = recognise(weights)
        if family not in (None, found.name):
            raise CheckpointError(f"it is a {found.name} checkpoint, not {family}")
        binary = has_one_channel(weights)
        resolved = resolve(
            {**found.settings, THRESHOLD.name: THRESHOLD} if binary else found.settings,
            family=found.name,
            encoder=encoder_name(weights),
            stated=checkpoint.stated,
            given=settings or {},
        )
        if binary:
            weights = as_two_classes(weights, resolved.values[THRESHOLD.name])
        # Building on "meta" would skip buffers, so build for real and overwrite.
        model = found.build(weights, resolved.values)
        if denied := contradictions(model.configuration(), checkpoint.stated):
            raise CheckpointError("the file contradicts itself: " + "; ".join(denied))
        require_classes(model.num_classes, found.name)
        fill(model, weights)
        _require_finite(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.assumed = resolved.assumed
    meta = binary_meta(checkpoint.meta) if binary else checkpoint.meta
    model.classes = read_classes(meta, model.num_classes)
    model.origin = WeightsOrigin(
        source=checkpoint.path.name,
        license=str(checkpoint.meta.get("license", "unknown")),
        sha256=_file_digest(checkpoint.path),
        ignored=tuple(sorted(filter(_is_ignored, weights))),
        training_size=str(checkpoint.meta.get("training_size", "unknown")),
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
    """Write the model's weights as safetensors under published key names.

    The file says which network it is: configuration, class names, palette and licence. Equal
    weights and metadata give equal bytes.

    Args:
        model: with its classes and origin.
        path: the file.
        metadata: more entries, or others in the place of these.
        half: write float16.
    Raises:
        CheckpointError: the file cannot be written; one that was there stays.
    """
    weights = {key: value.detach().contiguous() for key, value in published_weights(model).items()}
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    with whole_file(Path(path), CheckpointError) as draft:
        draft.write_bytes(_pack(weights, {**_describe(model), **(metadata or {})}))


def _describe(model: StepModel) -> dict[str, str]:
    return {
        MODEL: json.dumps(model.configuration()),
        "CLASSES": json.dumps([entry.name for entry in model.classes]),
        "PALETTE": json.dumps([list(entry.color) for entry in model.classes]),
        "license": model.origin.license,
    }


def _pack(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on its content alone.

    safetensors itself writes metadata in an order that differs from call to call.
    """
    plain = save(dict(weights))
    length = int.from_bytes(plain[:8], "little")
    entries = json.loads(plain[8 : 8 + length])
    entries["__metadata__"] = dict(sorted(metadata.items()))
    header = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + plain[8 + length :]


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
    return Checkpoint(path, _strip_prefix(tensors), meta, _read_stated(path, meta))


def _read_stated(path: Path, meta: Mapping[str, str]) -> dict[str, Any]:
    """The network's configuration, as ``save_checkpoint`` writes it."""
    if MODEL not in meta:
        return {}
    try:
        stated = json.loads(meta[MODEL])
        if not isinstance(stated, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: metadata entry '{MODEL}' is not a JSON object ({error})"
        ) from None
    return stated


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
