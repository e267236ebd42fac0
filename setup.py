"""Maps the top-level folders into the ``streamseg`` package; the metadata is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

PACKAGE_DIR = {
    "streamseg": "src/streamseg",
    "streamseg.calibration": "calibration",
    "streamseg.export": "export",
    "streamseg.plugins": "plugins",
    "streamseg.runtime": "runtime",
    "streamseg.training": "training",
}


def list_packages() -> list[str]:
    """Every package below the mapped folders: a folder counts when it holds ``__init__.py``."""
    found = set()
    for package, folder in PACKAGE_DIR.items():
        for init in Path(folder).rglob("__init__.py"):
            inner = init.parent.relative_to(folder).parts
            found.add(".".join((package, *inner)))
    return sorted(found)


def read_version() -> str:
    """The version, without importing the package."""
    text = Path("src/streamseg/__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise SystemExit("src/streamseg/__init__.py holds no __version__ line")
    return match.group(1)


setup(version=read_version(), packages=list_packages(), package_dir=PACKAGE_DIR)
