"""Tables that translate key names of one layout into the published ones.

A rule pairs two templates of module names, such as::

    segformer.encoder.block.{s}.{b}.attention.self.query  ->  backbone.block{s+1}.{b}.attn.q

``{s}`` stands for a number, ``{s+1}`` for that number plus one, ``{leaf}`` for the last part of a
key (``weight``, ``bias``, ``running_mean``) and ``{rest}`` for any number of parts. A template
without either means a module, and the leaf follows, unless the rule is of one ``parameter``.
``joined`` (1, 3) makes a tensor the second of three that are stacked along the first axis;
``change`` rearranges a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_VARIABLE = re.compile(r"\{(leaf|rest|[a-z])(?:\+(\d))?\}")
_PATTERNS = {"leaf": r"[a-z_]+", "rest": r".+"}
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """One line of a table."""

    theirs: str
    published: str
    joined: tuple[int, int] | None = None
    change: Change | None = None
    parameter: bool = False

    @cached_property
    def templates(self) -> tuple[str, str]:
        """Both templates with their leaf; a rule of one parameter has none."""
        texts = (self.theirs, self.published)
        whole = any(mark in text for mark in ("{leaf}", "{rest}") for text in texts)
        if self.parameter or whole:
            return texts
        return (self.theirs + ".{leaf}", self.published + ".{leaf}")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches keys of their layout."""
        return _compile(self.templates[0])

    @cached_property
    def published_pattern(self) -> re.Pattern[str]:
        """Matches published keys."""
        return _compile(self.templates[1])

    def rename(self, key: str) -> str | None:
        """The published key, or None where the rule does not match."""
        found = self.pattern.fullmatch(key)
        if found is None:
            return None
        return _fill(self.templates[1], found.groupdict())

    def restore(self, key: str) -> str | None:
        """Their key of a published one, or None."""
        found = self.published_pattern.fullmatch(key)
        if found is None:
            return None
        shifts = {m[1]: int(m[2] or 0) for m in _VARIABLE.finditer(self.published)}
        values = {
            name: str(int(value) - shifts.get(name, 0)) if value.isdigit() else value
            for name, value in found.groupdict().items()
        }
        return _fill(self.templates[0], values)


def _compile(template: str) -> re.Pattern[str]:
    text = ""
    place = 0
    seen: set[str] = set()
    for found in _VARIABLE.finditer(template):
        text += re.escape(template[place : found.start()])
        name = found[1]
        text += f"(?P={name})" if name in seen else f"(?P<{name}>{_PATTERNS.get(name, '[0-9]+')})"
        seen.add(name)
        place = found.end()
    return re.compile(text + re.escape(template[place:]))


def _fill(template: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        text = values.get(found[1], "0")
        return str(int(text) + int(found[2])) if found[2] else text

    return _VARIABLE.sub(value, template)


@dataclass(frozen=True)
class Renamed:
    """Tensors under published names, and their keys that no rule covers."""

    weights: dict[str, Tensor]
    unknown: list[str]


def rename(weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> Renamed:
    """Translate the keys that ``rules`` cover; a joined tensor that lacks a part is left out."""
    parts: dict[str, list[Tensor | None]] = {}
    plain: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in weights.items():
        matches = [(rule, new) for rule in rules if (new := rule.rename(key)) is not None]
        if not matches:
            unknown.append(key)
        for rule, published in matches:
            value = tensor if rule.change is None else rule.change(tensor)
            if rule.joined is None:
                plain[published] = value
            else:
                index, count = rule.joined
                parts.setdefault(published, [None] * count)[index] = value
    for published, found in parts.items():
        whole = [value for value in found if value is not None]
        if len(whole) == len(found):
            plain[published] = torch.cat(whole)
    return Renamed(plain, unknown)


def table(theirs: str, published: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for names below two prefixes."""
    return tuple(Rule(theirs + old, published + new) for old, new in names.items())


def same(*templates: str) -> tuple[Rule, ...]:
    """Rules for names that are the published ones."""
    return tuple(Rule(template, template) for template in templates)


def their_names(published: str, rules: Sequence[Rule]) -> list[str]:
    """The keys that would give ``published``, for messages; itself where no rule does."""
    found = [key for rule in rules if (key := rule.restore(published)) is not None]
    return found or [published]
