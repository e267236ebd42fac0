"""Finds the native operator library and proves that it is the one built with this package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from streamseg import __version__
from streamseg.errors import PluginNotFound

LIBRARY = "libstreamseg_ops.so"
RECORD = "libstreamseg_ops.json"
_NEXT_STEP = (
    "Install CMake 3.22 or newer and a C++17 compiler, then build it: in a checkout 'make native', "
    "elsewhere 'STREAMSEG_NATIVE=1 pip install --no-binary streamseg --force-reinstall --no-deps "
    "streamseg'. Without it bundles run by their lowering, more slowly"
)


def find_library(path: str | Path | None = None) -> Path:
    """Path of the operator library, checked against the record written at its build.

    Args:
        path: an absolute path to another copy; its record must lie beside it. None looks inside
            the package and nowhere else.
    Raises:
        PluginNotFound: there is no library, its version is not the package's, or its SHA-256 is
            not the one recorded.
    """
    library = Path(__file__).with_name(LIBRARY) if path is None else Path(path)
    if not library.is_absolute():
        raise PluginNotFound(
            f"operator library '{library}': got a relative path, expected an absolute one. "
            f"Pass '{library.absolute()}' if that is the file you mean"
        )
    record = _read_record(library.with_name(RECORD))
    if not library.is_file():
        reason = record.get("reason", "it was not built")
        raise PluginNotFound(f"operator library '{library}' is not there: {reason}. {_NEXT_STEP}")
    if not record:
        raise PluginNotFound(
            f"operator library '{library}' has no record of its build beside it ({RECORD}). "
            f"{_NEXT_STEP}"
        )
    if record.get("version") != __version__:
        raise PluginNotFound(
            f"operator library '{library}' is of streamseg {record.get('version')}, expected "
            f"{__version__}. {_NEXT_STEP}"
        )
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    if record.get("sha256") != digest:
        raise PluginNotFound(
            f"operator library '{library}' has SHA-256 {digest}, expected {record.get('sha256')} "
            f"from its build: it was changed or damaged. {_NEXT_STEP}"
        )
    return library


def _read_record(path: Path) -> dict[str, str]:
    """The record beside a library; empty when there is none or it is not readable."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict):
        return {}
    return {str(key): str(value) for key, value in record.items() if value is not None}
