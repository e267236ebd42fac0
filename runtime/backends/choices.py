"""Choices that were measured on this machine, remembered under the user's cache folder."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from streamseg.errors import BackendError, PluginNotFound
from streamseg.files import make_folder, whole_file
from streamseg.plugins.loader import find_library, find_openvino_library
from streamseg.runtime.backends.interface import BackendOptions
from streamseg.runtime.bundle.bundle import Bundle

logger = logging.getLogger(__name__)

# Names the instruction set that the operators use; without it the widest.
CPU_LEVEL = "STREAMSEG_CPU_LEVEL"


def place_of(facts: Iterable[str]) -> Path:
    """Where the measurement for these facts and this processor is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    text = "\n".join([*facts, str(os.cpu_count()), _processor()])
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Path(base) / "streamseg" / "choices" / f"{name}.json"


def place_of_steps(
    bundle: Bundle, options: BackendOptions, versions: Sequence[str], *facts: str
) -> Path:
    """Where a measurement of a bundle's steps is kept: whatever may change the times counts.

    Args:
        bundle: what was measured.
        options: how it was opened; the precision does not count.
        versions: of the runtimes, OpenVINO's last.
        facts: further ones that the choice belongs to.
    """
    opening = [str(options.native), str(options.threads), str(options.parallel)]
    return place_of(
        [*facts, bundle.identity, *opening, *versions, *_operators(options.library, versions[-1])]
    )


def _operators(library: Path | None, openvino: str) -> list[str]:
    """What decides how fast our operators are: after a new build another choice may win."""
    found = []
    extension = functools.partial(find_openvino_library, openvino.split("-")[0])
    finders: tuple[Callable[[], Path], ...] = (find_library, extension)
    if library is not None:
        finders = (*finders, lambda: library)
    for find in finders:
        try:
            found.append(hashlib.sha256(find().read_bytes()).hexdigest())
        except (PluginNotFound, OSError):
            found.append("")  # the lowering runs
    return [*found, os.environ.get(CPU_LEVEL, "")]


def recall(place: Path, names: Iterable[str]) -> dict[str, float] | None:
    """The kept milliseconds of each name; ``None`` where the file is missing or damaged."""
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        times = {name: float(kept[name]) for name in names}
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return times if all(0 < time < math.inf for time in times.values()) else None


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
