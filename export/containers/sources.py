"""Where the weights are: one file, a folder of a library, or shards with an index."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamseg.errors import CheckpointError
from streamseg.export.containers.content import read_json

# In the order of preference, as libraries name them.
_NAMES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".pkl", ".bin", ".tar")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.safetensors|\.bin)")
_MOST_SHARDS = 1000


@dataclass(frozen=True)
class WeightFiles:
    """The files of one checkpoint.

    Attributes:
        files: that hold tensors, in order.
        folder: where they are; ``config.json`` and a model card may stand beside them.
    """

    files: tuple[Path, ...]
    folder: Path

    def digest(self) -> str:
        """SHA-256 of the file, or of the digests of all shards in order."""
        digests = [_digest(path) for path in self.files]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def find_weights(path: Path) -> WeightFiles:
    """The files behind ``path``: a weights file, an index of shards, one of its shards, a folder.

    Raises:
        CheckpointError: absent, or a folder without weights or with several.
    """
    if path.is_dir():
        return find_weights(_in_folder(path))
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    if path.name.endswith(".index.json"):
        return WeightFiles(_shards(path), path.parent)
    shard = _SHARD.fullmatch(path.name)
    index = path.parent / f"{shard[1]}{shard[2]}.index.json" if shard else None
    if index is not None and index.is_file():
        return WeightFiles(_shards(index), path.parent)
    return WeightFiles((path,), path.parent)


def _in_folder(folder: Path) -> Path:
    for name in _NAMES:
        if (folder / name).exists():
            return folder / name
    if (folder / ".metadata").exists():
        raise CheckpointError(
            f"{folder} is a distributed checkpoint; convert it first: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth"
        )
    latest = folder / "latest"
    if latest.is_file():  # DeepSpeed names the folder of the last step there
        return _deepspeed(folder, latest.read_text(encoding="utf-8", errors="replace").strip())
    found = sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    if len(found) != 1:
        listed = ", ".join(p.name for p in found[:5]) or "none"
        raise CheckpointError(
            f"{folder} is a folder with {len(found)} weights files: {listed}. Expected one, or the "
            "layout of transformers; name the file"
        )
    return found[0]


def _deepspeed(folder: Path, tag: str) -> Path:
    if Path(tag).name != tag or not (folder / tag).is_dir():
        raise CheckpointError(f"{folder / 'latest'} names {tag[:80]!r}, which is not a folder here")
    path = folder / tag / "mp_rank_00_model_states.pt"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds a partitioned DeepSpeed checkpoint; convert it first: "
            f"python {folder / 'zero_to_fp32.py'} {folder} weights.pth"
        )
    return path


def _shards(index: Path) -> tuple[Path, ...]:
    mapped = read_json(index).get("weight_map")
    names = sorted({str(name) for name in mapped.values()}) if isinstance(mapped, dict) else []
    if not names or len(names) > _MOST_SHARDS:
        raise CheckpointError(f"{index} is not an index of shards: it has no weight_map")
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{index} names {outside[0][:80]!r}, a file outside its folder")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards, {missing[0]} first"
        )
    return tuple(index.parent / name for name in names)


def read_card(folder: Path) -> dict[str, Any]:
    """``license`` and ``license_name`` from the front matter of a model card (README.md)."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        text = file.read(1 << 16).decode("utf-8", errors="replace")
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    if front is None:
        return {}
    lines = re.findall(r"^(license\w*):[ \t]*(\S[^\n]*)$", front[1], re.MULTILINE)
    return {name: value.strip(" '\"") for name, value in lines}


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
