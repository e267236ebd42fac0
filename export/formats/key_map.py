"""Translation between published key names and ours, both ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class KeyMap:
    """Which published module holds which of our modules' parameters.

    Names are of modules; ``weight``, ``bias`` and the buffers of norms follow. A published module
    may stack several of ours along the first axis (attention's ``qkv``).
    """

    def __init__(self) -> None:
        self._ours: dict[str, tuple[str, ...]] = {}

    def pair(self, published: str, ours: str) -> None:
        """Declare that both names mean the same module or parameter."""
        self._ours[published] = (ours,)

    def stacked(self, published: str, ours: tuple[str, ...]) -> None:
        """Declare that ``published`` is ``ours`` stacked along the first axis, in this order."""
        self._ours[published] = ours

    def translate(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Published names to ours.

        Returns:
            Our state dict, and the published keys that no entry covers.
        """
        found: dict[str, Tensor] = {}
        unknown = []
        for key, tensor in weights.items():
            module, suffix = self._split(key)
            targets = self._ours.get(module)
            if targets is None:
                unknown.append(key)
                continue
            parts = tensor.chunk(len(targets)) if len(targets) > 1 else (tensor,)
            for target, part in zip(targets, parts, strict=False):
                found[target + suffix] = part
        return found, unknown

    def restore(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict under published names."""
        restored: dict[str, Tensor] = {}
        taken: set[str] = set()
        for published, ours in self._ours.items():
            for suffix in _suffixes(weights, ours[0]):
                keys = [name + suffix for name in ours]
                parts = [weights[key] for key in keys]
                restored[published + suffix] = torch.cat(parts) if len(parts) > 1 else parts[0]
                taken.update(keys)
        left = sorted(set(weights) - taken)
        if left:
            raise KeyError(f"no published name for: {', '.join(left)}")
        return restored

    def published(self, ours: str) -> str:
        """The published key that holds our key ``ours`` (for messages)."""
        module, suffix = ours.rpartition(".")[0], "." + ours.rpartition(".")[2]
        for name, targets in self._ours.items():
            if module in targets or ours in targets:
                return name + (suffix if module in targets else "")
        return ours

    def _split(self, key: str) -> tuple[str, str]:
        if key in self._ours:
            return key, ""
        module, _, leaf = key.rpartition(".")
        return module, "." + leaf


def same_names(module: nn.Module) -> KeyMap:
    """The key map of a module whose parameters have their published names."""
    keys = KeyMap()
    for name in module.state_dict():
        keys.pair(name, name)
    return keys


def _suffixes(weights: Mapping[str, Tensor], name: str) -> list[str]:
    if name in weights:
        return [""]
    prefix = name + "."
    return [
        "." + key[len(prefix) :]
        for key in weights
        if key.startswith(prefix) and "." not in key[len(prefix) :]
    ]


def count_entries(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many consecutive numbers 0, 1, ... follow ``prefix`` in the keys."""
    numbers = {key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix)}
    count = 0
    while str(count) in numbers:
        count += 1
    return count


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under ``prefix``, without it."""
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
