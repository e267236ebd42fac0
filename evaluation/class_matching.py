"""Which class of a model is which class of a dataset, or of another model: by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamseg.counting import count_of
from streamseg.errors import DatasetError
from streamseg.option_fields import option
from streamseg.runtime.bundle.class_names import has_names, match_names, unmatched

ClassesBy = Literal["name", "position"]
CLASSES_BY: tuple[ClassesBy, ...] = ("name", "position")
CLASSES_BY_HELP = "Match classes by name, or by position: class 0 with class 0 and so on."


@dataclass(frozen=True, kw_only=True)
class MatchingOptions:
    """How classes of a model are matched with those of a dataset or of another model.

    Attributes:
        classes_by: see ``match_classes``.
    """

    classes_by: ClassesBy = option(CLASSES_BY_HELP, default="name")


@dataclass(frozen=True)
class NamedClasses:
    """One side: what it is called in messages, and the names of its classes in order."""

    owner: str
    names: tuple[str, ...]

    @property
    def named(self) -> bool:
        """Whether these are names, and not numbers."""
        return has_names(self.names)


@dataclass(frozen=True)
class ClassMatch:
    """Class i of the first side is class ``places[i]`` of the second.

    ``how`` says what that rests on: "by name", or "by position" and why.
    """

    places: tuple[int, ...]
    how: str

    @property
    def identity(self) -> bool:
        """Whether both sides have the same order."""
        return self.places == tuple(range(len(self.places)))

    def translate(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels of the first side as labels of the second; 255 (none) stays."""
        if self.identity:
            return labels
        table = np.full(256, 255, np.uint8)
        table[: len(self.places)] = self.places
        translated: NDArray[np.uint8] = table[labels]
        return translated

    def reorder(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (K, h, w) of the first side in the order of the second."""
        if self.identity:
            return logits
        ordered = np.empty_like(logits)
        ordered[list(self.places)] = logits
        return ordered


def match_classes(
    first: NamedClasses,
    second: NamedClasses,
    *,
    classes_by: ClassesBy = "name",
    dataset: str | None = None,
) -> ClassMatch:
    """Match two lists of classes.

    Args:
        first: a model's classes.
        second: those of a dataset or of another model.
        classes_by: "position": class i is class i, whatever the names.
        dataset: whose aliases count; None: those of any known dataset.
    Raises:
        DatasetError: the sides have different numbers of classes, or different names.
    """
    if len(first.names) != len(second.names):
        raise DatasetError(
            f"{first.owner} has {count_of(len(first.names), 'class')} and {second.owner} "
            f"{len(second.names)}: they were made for different data. {_listed(first, second)}"
        )
    positions = tuple(range(len(first.names)))
    if classes_by == "position":
        return ClassMatch(positions, "by position (--classes-by position)")
    nameless = [side.owner for side in (first, second) if not side.named]
    if nameless:
        verb = "have" if len(nameless) > 1 else "has"
        reason = f"{' and '.join(nameless)} {verb} no class names"
        return ClassMatch(positions, f"by position: {reason}")
    places = match_names(first.names, second.names, dataset=dataset)
    if places is None:
        raise DatasetError(_difference(first, second, dataset))
    return ClassMatch(places, "by name")


def _difference(first: NamedClasses, second: NamedClasses, dataset: str | None) -> str:
    only = [
        f"only {side.owner}: {', '.join(missing)}"
        for side, other in ((first, second), (second, first))
        if (missing := unmatched(side.names, other.names, dataset=dataset))
    ]
    return (
        f"{first.owner} and {second.owner} have different classes; "
        f"{'; '.join(only) or 'a name occurs twice'}. {_listed(first, second)} If class 0 of one "
        "is class 0 of the other and so on, add --classes-by position"
    )


def _listed(*sides: NamedClasses) -> str:
    return " ".join(f"{side.owner}: {_numbered(side.names)}." for side in sides)


def _numbered(names: Sequence[str]) -> str:
    return ", ".join(f"{index} {name}" for index, name in enumerate(names))
