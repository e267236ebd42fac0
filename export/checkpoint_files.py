"""Checkpoints as published tensors: any file, folder or hub name, in any known layout."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from streamseg.errors import CheckpointError
from streamseg.export.containers.content import read_content
from streamseg.export.containers.sources import WeightFiles, find_weights
from streamseg.export.containers.state_dicts import find_state_dict, plain
from streamseg.export.formats import huggingface, openmmlab
from streamseg.export.formats.layouts import Layout, Translated, translate
from streamseg.export.formats.renaming import their_names
from streamseg.export.hub import fetch
from streamseg.runtime.bundle.hub_bundle import is_hub_name

logger = logging.getLogger(__name__)

# Entry of a safetensors file's metadata: the network's configuration as JSON.
MODEL = "model"
_FIRST_CONVOLUTIONS = (
    "backbone.patch_embed1.proj.weight",
    "backbone.patch_embed.proj.weight",
    "backbone.downsample_layers.0.0.weight",
    "backbone.stem.conv1.weight",
)
_CLASS_NAMES = ("class_names", "classes", "CLASSES")
_TEXTS = ("license", "training_size")


@dataclass(frozen=True)
class TensorFiles:
    """Tensors under the names of their files, and what came with them.

    Attributes:
        source: what was requested, with the commit of a hub's repository.
        files: where they were read.
        tensors: name -> tensor, without the names that torch.compile and FSDP insert.
        meta: plain values beside them.
        beside: top-level entries that hold other tensors, such as optimisers.
    """

    source: str
    files: WeightFiles
    tensors: dict[str, Tensor]
    meta: Mapping[str, Any]
    beside: tuple[str, ...]


@dataclass(frozen=True)
class Naming:
    """How a file names tensors: its layout, what stands before every name, and all its keys."""

    layout: Layout
    prefix: str
    keys: frozenset[str]

    def their_name(self, published: str) -> str:
        """The key that the file lacks where ``published`` is missing.

        A layout may have two generations of names; the file's own is the one that its keys begin
        like.
        """
        names = [self.prefix + name for name in their_names(published, self.layout.rules)]
        absent = [name for name in names if name not in self.keys] or names
        heads = {_head(key) for key in self.keys}
        return next((name for name in absent if _head(name) in heads), absent[0])


def _head(key: str, parts: int = 4) -> str:
    return ".".join(key.split(".")[:parts])


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under published names, and what came with them.

    Attributes:
        path: of the file or folder.
        weights: published name -> tensor.
        meta: class names, palette, licence and others, as mmcv names them.
        stated: what the file says of its network: settings (``window``, ``offsets``, ``mean``, ...)
            and whatever else ``StepModel.configuration`` has, by the same names.
        source: what was requested, with the commit of a hub's repository.
        layout: name of the layout that the tensors had.
        left_out: keys that serve training only.
        outside: keys that are not part of the network and have no known purpose.
        unknown: keys of the network that its layout does not have.
        digest: SHA-256 of the files.
        naming: how the file names tensors, for messages.
    """

    path: Path
    weights: dict[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)
    source: str = "unknown"
    layout: str = ""
    left_out: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    digest: str = ""
    naming: Naming | None = None

    def their_name(self, published: str) -> str:
        """The file's key for a published one, for messages."""
        return published if self.naming is None else self.naming.their_name(published)


def read_tensors(source: str | os.PathLike[str]) -> TensorFiles:
    """Read a file, a folder, shards or a name on the hub, whatever the tensors are called.

    Raises:
        CheckpointError: absent, not a checkpoint, damaged or truncated; nothing in it runs.
    """
    name = os.fspath(source)
    path, named = Path(name), Path(name).name
    if is_hub_name(name):
        snapshot = fetch(name)
        path, named = snapshot.folder, snapshot.name
    files = find_weights(path)
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {}
    beside: tuple[str, ...] = ()
    for file in files.files:
        content = read_content(file)
        try:
            found = find_state_dict(content.value, file.stat().st_size)
        except ValueError as error:
            raise CheckpointError(f"{file} is not a usable checkpoint: {error}") from None
        tensors |= found.tensors
        beside += found.beside
        meta |= {**_beside(content.value), **content.meta}
    return TensorFiles(named, files, tensors, meta, beside)


def _beside(value: Any) -> dict[str, Any]:
    """``meta`` as plain values, and the class names of hyper-parameters."""
    if not isinstance(value, Mapping):
        return {}
    found = _class_names(plain(value.get("hyper_parameters")))
    meta = plain(value.get("meta"))
    found |= meta if isinstance(meta, dict) else {}
    for name in ("cfg", "config", "license"):
        if isinstance(value.get(name), str):
            found.setdefault(name, value[name])
    return found


def _class_names(parameters: Any) -> dict[str, Any]:
    """Names among Lightning's hyper-parameters; ``classes`` is often their number there."""
    for name in _CLASS_NAMES if isinstance(parameters, dict) else ():
        names = parameters.get(name)
        if isinstance(names, list) and names and all(isinstance(n, str) for n in names):
            return {"CLASSES": names}
    return {}


def read_checkpoint(
    source: str | os.PathLike[str], *, layouts: Iterable[Layout] = ()
) -> Checkpoint:
    """Read a network's tensors under their published names, and what the files say of it.

    Args:
        source: a file, a folder, an index of shards, or ``hf:ORG/NAME``.
        layouts: beside those that ``export.formats.layouts`` lists.
    Raises:
        CheckpointError: unreadable, or in no known layout; the message names the closest.
    """
    found = read_tensors(source)
    try:
        translated = translate(found.tensors, layouts)
        meta, stated, weights = _statements(found, translated)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(source)}: {error}") from None
    return Checkpoint(
        found.files.files[0],
        weights,
        {k: v for k, v in meta.items() if k not in _TEXTS or isinstance(v, str)},
        stated,
        found.source,
        translated.layout.name,
        (*translated.left_out, *found.beside),
        translated.outside,
        translated.unknown,
        found.files.digest(),
        Naming(translated.layout, translated.prefix, frozenset(found.tensors)),
    )


def _statements(
    found: TensorFiles, translated: Translated
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """What the layout, buffers, configurations and metadata say, each over those before it.

    Returns:
        Meta, what is stated of the network, and its tensors, which take RGB.
    """
    layout, weights = translated.layout, translated.weights
    meta, from_text = openmmlab.read_meta(found.meta)
    if from_text.pop("channels", "rgb") == "bgr":
        from_text |= {name: from_text[name][::-1] for name in ("mean", "std")}
        weights = _in_rgb(weights)
    stated = {**layout.stated, **_pixel_buffers(found.tensors), **from_text}
    if layout.config:
        beside, from_files = huggingface.read_folder(found.files.folder, layout)
        meta = {**meta, **beside}
        stated |= from_files
    return meta, {**stated, **_own_statement(found.meta)}, weights


def _pixel_buffers(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Mean and std that detectron2 and mmengine keep as buffers."""
    stated = {}
    for key, value in tensors.items():
        for name, ends in (
            ("mean", ("pixel_mean", "data_preprocessor.mean")),
            ("std", ("pixel_std", "data_preprocessor.std")),
        ):
            if key.endswith(ends) and value.numel() == 3:
                stated[name] = value.flatten().tolist()
    return stated if len(stated) == 2 else {}


def _own_statement(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The network's configuration, as ``save_checkpoint`` writes it."""
    text = meta.get(MODEL)
    if not isinstance(text, str):
        return {}
    try:
        stated = json.loads(text)
        if not isinstance(stated, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"metadata entry '{MODEL}' is not a JSON object ({error})") from None
    return stated


def _in_rgb(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network that takes BGR as one that takes RGB: its first kernel turned."""
    turned = {key: weights[key].flip(1) for key in _FIRST_CONVOLUTIONS if key in weights}
    return {**weights, **turned}
