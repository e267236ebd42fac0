"""Checkpoint import and export: any known layout in, a StepModel out, and published names back."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

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
from streamseg.export.checkpoint_files import MODEL, Checkpoint, read_checkpoint
from streamseg.export.families import encoder_name, family_layouts, recognise
from streamseg.export.formats.key_map import below
from streamseg.export.formats.layouts import is_training_only
from streamseg.export.palettes import read_classes
from streamseg.export.settings import contradictions, resolve
from streamseg.export.step import StepModel, WeightsOrigin
from streamseg.files import whole_file

logger = logging.getLogger(__name__)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    family: str | None = None,
    settings: Mapping[str, Any] | None = None,
    override: bool = False,
) -> StepModel:
    """Import a checkpoint in any layout that ``export.formats.layouts`` lists.

    The system and its architecture are read off tensor names and shapes. Weights are widened to
    float32. Settings that shapes do not show (``export.settings``) are read from the file, from
    ``settings``, or taken from the publication; the last are listed in the model's ``assumed``.

    Args:
        path: a weights file of any training framework, a folder as transformers writes it, an
            index of shards, or ``hf:ORG/NAME``. Content decides, not the suffix; no code runs.
        family: refuse a checkpoint of any other system, one of ``known_families``.
        settings: name -> value or text, such as ``{"window": 2, "shift": 1}``.
        override: let ``settings`` win over the file, for experiments; the model's ``assumed`` lists
            those that do.
    Raises:
        CheckpointError: unreadable, not of a known model, with missing or unexpected keys, or with
            values that are not finite; a setting that is unknown, out of range, missing, or in
            contradiction to the file.
    """
    checkpoint = read_checkpoint(path, layouts=family_layouts())
    weights = {key: _widen(value) for key, value in checkpoint.weights.items()}
    try:
        found = recognise(weights)
        if family not in (None, found.name):
            raise CheckpointError(f"it is a {found.name} checkpoint, not {family}")
        binary = has_one_channel(weights)
        resolved = resolve(
            {**found.settings, THRESHOLD.name: THRESHOLD} if binary else found.settings,
            family=found.name,
            encoder=encoder_name(found, weights),
            stated=checkpoint.stated,
            given=settings or {},
            override=override,
        )
        if binary:
            weights = as_two_classes(weights, resolved.values[THRESHOLD.name])
        # Building on "meta" would skip buffers, so build for real and overwrite.
        model = found.build(weights, {**checkpoint.stated, **resolved.values})
        # Settings in the form that they were read to: one number may stand for a pair.
        stated = {k: resolved.values.get(k, value) for k, value in checkpoint.stated.items()}
        if denied := contradictions(model.configuration(), stated):
            raise CheckpointError("the file contradicts itself: " + "; ".join(denied))
        require_classes(model.num_classes, found.name)
        fill(model, weights, unknown=checkpoint.unknown, their_name=checkpoint.their_name)
        _require_finite(weights)
        meta = binary_meta(checkpoint.meta) if binary else checkpoint.meta
        model.classes = read_classes(meta, model.num_classes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.assumed = resolved.assumed
    model.origin = _origin(checkpoint)
    return model


def _origin(checkpoint: Checkpoint) -> WeightsOrigin:
    derived = [key for key in checkpoint.weights if is_training_only(key)]
    left_out = tuple(sorted({*checkpoint.left_out, *derived}))
    if left_out:
        logger.info("left out, for training only: %s", ", ".join(left_out))
    if checkpoint.outside:
        logger.info("outside the network: %s", ", ".join(checkpoint.outside))
    return WeightsOrigin(
        source=checkpoint.source,
        license=str(checkpoint.meta.get("license", "unknown")),
        sha256=checkpoint.digest,
        ignored=left_out,
        training_size=str(checkpoint.meta.get("training_size", "unknown")),
        layout=checkpoint.layout,
        outside=checkpoint.outside,
    )


def _require_finite(weights: Mapping[str, Tensor]) -> None:
    bad = [
        key for key, value in weights.items() if not is_training_only(key) and not is_finite(value)
    ]
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
        metadata: more entries, or others instead of these.
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


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def fill(
    model: StepModel,
    weights: Mapping[str, Tensor],
    *,
    unknown: Iterable[str] = (),
    their_name: Callable[[str], str] = str,
) -> None:
    """Put ``weights``, under published names, into ``model``.

    Args:
        model: changed in place.
        weights: published name -> tensor.
        unknown: keys of the file that its layout does not have.
        their_name: the file's key for a published one, for messages.
    Raises:
        CheckpointError: a key is missing, unexpected or of another shape.
    """
    own: dict[str, Tensor] = {}
    maps = model.published_keys()
    unexpected = [key for key in weights if not key.startswith(tuple(maps))]
    for prefix, keys in maps.items():
        found, strange = keys.translate(below(weights, prefix))
        own.update({prefix + key: value for key, value in found.items()})
        unexpected += [prefix + key for key in strange]
    unexpected = [their_name(key) for key in unexpected if not is_training_only(key)]
    unexpected += unknown
    expected = model.state_dict()
    missing = [
        their_name(prefix + keys.published(key.removeprefix(prefix)))
        for prefix, keys in maps.items()
        for key in expected
        if key.startswith(prefix) and key not in own and not is_training_only(key)
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


def _listing(keys: list[str], most: int = 12) -> str:
    names = sorted(set(keys))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
