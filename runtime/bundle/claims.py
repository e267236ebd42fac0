"""What was assumed about a network, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from streamseg.counting import count_of

NORMALISATION = ("mean", "std")
PARITY_MEANING = (
    "parity compares the graphs with what they were made from: the imported network, or another "
    "bundle. It does not show that the import is the network that was trained; compare its scores "
    "(streamseg eval) with the published ones for that"
)


def format_setting(value: Any) -> str:
    """A setting's value as ``--set`` takes it: ``20``, ``20,10``, ``-9,-6,-3``."""
    if isinstance(value, (list, tuple)):
        parts = [format_setting(entry) for entry in value]
        return parts[0] if len(parts) == 2 and parts[0] == parts[1] else ",".join(parts)
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_parity(parity: Mapping[str, Any]) -> str:
    """One line on how far a bundle is from what it was made from."""
    logits = parity["logits_max_abs"]
    shown = "" if logits is None else f"logits within {logits:.1e} ({parity['logits_relative']:.1e}"
    shown = f"{shown} of their size), " if shown else ""
    return (
        f"against {parity['against']}, over {count_of(parity['frames'], 'frame')}: state within "
        f"{parity['state_max_abs']:.1e} ({parity['state_relative']:.1e} of its size), {shown}"
        f"{parity['labels_agreement']:.4%} of labels equal"
    )


def describe_assumed(assumed: Mapping[str, Any]) -> Iterator[str]:
    """Sentences human-readable: the network's own settings first, then the input's normalisation.

    ``window 20 and shift 10 assumed: not recorded in the file``.
    """
    network = [name for name in assumed if name not in NORMALISATION]
    for names in (network, [name for name in assumed if name in NORMALISATION]):
        parts = [f"{name} {format_setting(assumed[name])}" for name in names]
        if parts:
            listed = ", ".join(parts[:-1])
            joined = f"{listed} and {parts[-1]}" if listed else parts[-1]
            yield f"{joined} assumed: not recorded in the file"
