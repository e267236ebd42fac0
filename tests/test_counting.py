"""Numbers of things read as English, and no message puts a plural after the number one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.counting import count_of
from tests.conftest import ROOT

# What the end of a run prints for each of its frames, files or streams.
COUNTED = re.compile(r" ?(frames|lines|videos|streams|clips|steps|overlays|label maps|times)\b")
PRINTED = ("src/streamseg/cli", "runtime/sinks")
# Numbers that are never one.
SEVERAL = {"MOST_CHANGES", "within"}


@pytest.mark.parametrize(
    ("number", "noun", "plural", "text"),
    [
        (0, "frame", "", "0 frames"),
        (1, "frame", "", "1 frame"),
        (2, "frame", "", "2 frames"),
        (1, "class", "", "1 class"),
        (2, "class", "", "2 classes"),
        (2, "frame dropped", "frames dropped", "2 frames dropped"),
    ],
)
def test_noun_agrees_with_its_number(number: int, noun: str, plural: str, text: str) -> None:
    assert count_of(number, noun, plural) == text


def plurals(path: Path) -> Iterator[str]:
    """Formatted texts in which a plural stands right after a whole number."""
    for text in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(text, ast.JoinedStr):
            continue
        for value, after in zip(text.values, text.values[1:], strict=False):
            plain = isinstance(value, ast.FormattedValue) and value.format_spec is None
            if plain and isinstance(after, ast.Constant) and COUNTED.match(str(after.value)):
                shown = ast.unparse(value.value)
                if shown not in SEVERAL and not shown.startswith("count_of("):
                    yield f"{path.relative_to(ROOT)}:{text.lineno}: {ast.unparse(text)}"


def test_printed_counts_agree_with_their_nouns() -> None:
    files = [path for room in PRINTED for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 30
    assert [line for path in files for line in plurals(path)] == []
