"""Plain English in messages, docstrings, help and documentation: turns that are kept out.

``docs/glossary.md`` has the nouns.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_rooms import modules

# Turn -> what to write instead.
TURNS = {
    r"mend(?:s|ed|ing)?": "fix",
    r"told": "reported",
    r"tells?": "report, show",
    r"(?<!there )(?<!There )is no (?!longer)": "is not a",
    r"are no (?!longer)(?=\w+ of)": "are not",
    r"go(?:es)? on\b(?! the)": "continue, resume",
    r"gone on": "resumed",
    r"none is\b": "no ... is",
    r"as asked": "as requested, or nothing",
    r"what is missing": "missing files, missing ...",
    r"at the most": "at most",
    r"and the like": "and other ...",
    r"aloud": "with a message",
    r"by itself alone": "alone",
}
PATTERN = re.compile("|".join(rf"\b(?:{turn})" for turn in TURNS))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """String constants of a module: docstrings, messages and help."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def find_turns(text: str) -> list[str]:
    joined = re.sub(r"\s+", " ", text)
    return [joined[max(0, m.start() - 30) : m.end() + 30] for m in PATTERN.finditer(joined)]


def test_the_pattern_finds_turns_and_passes_plain_english() -> None:
    bad = ("a bad one changes nothing and is told", "x is no bundle", "Go on", "how to mend it")
    found = [text for text in bad if find_turns(text.lower())]
    assert found == list(bad)
    assert find_turns("There is no GPU here. It is no longer read. See go on the left.") == []


def test_strings_of_the_package_are_plain_english() -> None:
    found = {
        f"{name}:{line}": turns
        for name, path in modules().items()
        for line, text in texts(path)
        if (turns := find_turns(text))
    }
    assert found == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documentation_is_plain_english(page: Path) -> None:
    assert find_turns(page.read_text(encoding="utf-8")) == []
