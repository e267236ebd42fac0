"""How this copy of streamseg was installed, and the commands that add to it.

A copy that was installed from a file or a checkout may be on no index, so a message that names an
install command asks here. Sources: PEP 610 (``direct_url.json``), ``pyvenv.cfg``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from streamseg._version import __version__


def install_command(*extras: str) -> str:
    """The command that installs ``extras`` beside this copy, such as ``export`` and ``cpu``."""
    place, editable = _origin(",".join(extras))
    return f"{_pip()} install {'-e ' if editable else ''}'{place}'"


def package_command(*packages: str) -> str:
    """The command that installs other packages where this copy is installed."""
    quoted = (f"'{name}'" if set(name) & set("<>[];= ") else name for name in packages)
    return f"{_pip()} install {' '.join(quoted)}"


def build_command(library: str) -> str:
    """The command that builds a native library: ``native``, ``cuda`` or ``openvino``."""
    if find_checkout() is not None:
        return f"make {library}"
    options = f"STREAMSEG_{library.upper()}=1 {_pip()} install --force-reinstall --no-deps"
    place, _ = _origin("")
    if place == "streamseg":
        return f"{options} --no-binary streamseg streamseg"
    if place.endswith(".whl"):  # which holds no sources
        return f"{options} streamseg-{__version__}.tar.gz"
    return f"{options} '{place}'"


def find_checkout() -> Path | None:
    """The source tree that this copy runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    is_source = Path(__file__).parent.parent.name == "src" and (root / "pyproject.toml").is_file()
    return root if is_source else None


def _origin(extras: str) -> tuple[str, bool]:
    """What pip is given to install this copy again, and whether it is editable."""
    wish = f"[{extras}]" if extras else ""
    root = find_checkout()
    if root is not None:
        return f"{'.' if root == Path.cwd() else root}{wish}", True
    from urllib.parse import unquote, urlparse

    record = _direct_url()
    url = str(record.get("url", ""))
    if url.startswith("file:"):
        return f"{unquote(urlparse(url).path)}{wish}", False
    if "vcs_info" in record:
        kind, commit = record["vcs_info"]["vcs"], record["vcs_info"]["commit_id"]
        url = f"{kind}+{url}@{commit}"
    return f"streamseg{wish}" + (f" @ {url}" if url else ""), False


def _direct_url() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution("streamseg").read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    return dict(json.loads(text)) if text else {}


def _pip() -> str:
    """``uv pip`` in environments of uv, which hold no pip."""
    settings = Path(sys.prefix) / "pyvenv.cfg"
    made_by_uv = settings.is_file() and any(
        line.split("=")[0].strip() == "uv" for line in settings.read_text("utf-8").splitlines()
    )
    return "uv pip" if made_by_uv and importlib.util.find_spec("pip") is None else "pip"
