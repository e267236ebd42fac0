"""Choices that were measured on this machine, remembered under the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from streamseg.errors import BackendError
from streamseg.files import make_folder, whole_file

logger = logging.getLogger(__name__)


def place_of(facts: Iterable[str]) -> Path:
    """Where the measurement for these facts and this processor is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    text = "\n".join([*facts, str(os.cpu_count()), _processor()])
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Path(base) / "streamseg" / "choices" / f"{name}.json"


def recall(place: Path, names: Iterable[str]) -> dict[str, float] | None:
    """The kept milliseconds of each name; ``None`` where the file is missing or damaged."""
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        return {name: float(kept[name]) for name in names}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def remember(place: Path, milliseconds: Mapping[str, float]) -> None:
    """Keep a measurement; where it cannot be written, the next start measures again."""
    try:
        make_folder(place.parent, BackendError)
        with whole_file(place, BackendError) as draft:
            draft.write_text(json.dumps(dict(milliseconds)) + "\n", encoding="utf-8")
    except BackendError as error:
        logger.warning("a measured choice is not remembered: %s", error)


def _processor() -> str:
    """Model and instruction sets, as far as Linux says; they decide what is faster."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
