"""The public names of every package; tests/public_names.txt lists them.

A name that is added or removed on purpose is written there too, and in CHANGELOG.md:
``python -m tests.test_public_names`` writes the file.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest

import streamseg
from tests.test_rooms import ROOMS, modules

LIST = Path(__file__).with_name("public_names.txt")
# Packages without an interface: their modules are imported by name, or not at all.
INNER = {
    "cli": "the command line",
    "export.containers": "reads files for export.checkpoint_files",
    "export.formats": "one module for each checkpoint layout",
    "export.models": "one module for each network",
}


def packages() -> list[str]:
    """The front door, every room and every package inside one, by dotted name."""
    found = [name for name, path in modules().items() if path.name == "__init__.py"]
    return sorted(name for name in found if name not in INNER)


def qualified(package: str) -> str:
    return f"streamseg.{package}".rstrip(".")


def public_names() -> list[str]:
    """``package.name`` of everything that a package exports."""
    names = []
    for package in packages():
        module = import_module(qualified(package))
        names += [f"{qualified(package)}.{name}" for name in module.__all__]
    return sorted(names)


def test_public_names_are_the_listed_ones() -> None:
    assert public_names() == LIST.read_text(encoding="utf-8").splitlines()


def test_every_room_is_covered() -> None:
    assert {*ROOMS, "", "memory"} <= set(packages())
    assert set(modules()) >= set(INNER)


@pytest.mark.parametrize("package", packages(), ids=qualified)
def test_public_names_exist_and_are_documented(package: str) -> None:
    module = import_module(qualified(package))
    assert module.__doc__
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        found = getattr(module, name)
        if callable(found):
            assert found.__doc__, name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'streamseg' has no attribute 'oepn'"):
        streamseg.oepn  # noqa: B018


def test_help_shows_the_front_door() -> None:
    text = io.StringIO()
    with redirect_stdout(text):
        help(streamseg)
    for name in set(streamseg.__all__) - {"__version__"}:
        assert name in text.getvalue()


if __name__ == "__main__":
    LIST.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
