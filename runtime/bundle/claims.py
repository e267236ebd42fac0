"""What had to be assumed of a network, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NORMALISATION = ("mean", "std")
PARITY_MEANING = (
    "this shows that the graphs compute what the imported network computes; it does not show that "
    "the import is the network that was trained: only its scores on labelled data do (streamseg "
    "eval, against the published figures)"
)


def format_setting(value: Any) -> str:
    """A setting's value as ``--set`` takes it: ``20``, ``20,10``, ``-9,-6,-3``."""
    if isinstance(value, (list, tuple)):
        parts = [format_setting(entry) for entry in value]
        return parts[0] if len(parts) == 2 and parts[0] == parts[1] else ",".join(parts)
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_assumed(assumed: Mapping[str, Any]) -> Iterator[str]:
    """Sentences for people: the network's own settings first, then the input's normalisation.

    ``window 20 and shift 10 assumed: the file does not say``.
    """
    network = [name for name in assumed if name not in NORMALISATION]
    for names in (network, [name for name in assumed if name in NORMALISATION]):
        parts = [f"{name} {format_setting(assumed[name])}" for name in names]
        if parts:
            listed = ", ".join(parts[:-1])
            joined = f"{listed} and {parts[-1]}" if listed else parts[-1]
            yield f"{joined} assumed: the file does not say"
