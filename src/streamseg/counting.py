"""Numbers of things in messages."""

from __future__ import annotations


def count_of(number: int, noun: str, plural: str = "") -> str:
    """``1 frame``, ``2 frames``.

    Args:
        number: of the things.
        noun: one of them.
        plural: several, where that is not ``noun`` with an ``s`` or, after ``s``, an ``es``.
    """
    several = plural or noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else several}"
