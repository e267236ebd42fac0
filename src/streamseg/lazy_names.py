"""Public names of a package that are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def offer(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names live in other modules.

    A package stays fast to import, and one that needs an extra can be imported without it.
    ``dir`` and ``help`` show the names all the same.

    Args:
        package: its ``__name__``.
        homes: name -> module below ``streamseg`` that defines it, or ``module:name`` there.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, _, inner = homes[name].partition(":")
        return getattr(import_module(f"streamseg.{module}"), inner or name)

    def names() -> list[str]:
        own = vars(sys.modules[package])
        return sorted({*own["__all__"], *(name for name in own if name.startswith("__"))})

    return find, names
