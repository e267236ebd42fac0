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
    r"in the place of": "instead of",
    r"anew": "again",
    r"(?:breaks?|broke) off": "failed, was interrupted, is cut off",
    r"pass(?:es|ed)? over (?:in silence|to)": "skip",
    r"tak(?:es?|ing) (?:no )?part\b": "join, affect",
}
PATTERN = re.compile("|".join(rf"\b(?:{turn})" for turn in TURNS))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
GLOSSARY = ROOT / "docs/glossary.md"
# Turns that test names had.
NAME_TURNS = re.compile(
    r"_(?:told|tells?|mend|is_no|are_no|none_is|as_asked|goes?_on|anew|say|says|said|speaks?)(?:_|$)"
)


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


def test_names_of_tests_are_plain_english() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and NAME_TURNS.search(node.name)
    }
    assert found == set()


def glossary_rows() -> tuple[list[str], list[str]]:
    """The words of the glossary, and those that it keeps out."""
    used, _, unused = GLOSSARY.read_text(encoding="utf-8").partition("## Not used")
    first_cells = re.compile(r"^\| ([^|]+?) \|", re.MULTILINE)
    split = [
        [word for cell in first_cells.findall(part) for word in cell.split(", ")]
        for part in (used, unused)
    ]
    return ([w for w in split[0] if w != "word"], [w for w in split[1] if w != "word"])


def test_words_of_the_glossary_are_used() -> None:
    words, _ = glossary_rows()
    assert len(words) == len(set(words)) > 40
    code = "\n".join(path.read_text(encoding="utf-8") for path in modules().values()).lower()
    lost = [word for word in words if not re.search(rf"\b{word.replace(' ', '[ _]')}", code)]
    assert lost == []


def test_words_that_the_glossary_keeps_out_are_not_used() -> None:
    _, words = glossary_rows()
    assert len(words) > 10
    pattern = re.compile(rf"\b(?:{'|'.join(words)})s?\b")
    found = [
        f"{name}:{line}: {match[0]}"
        for name, path in modules().items()
        for line, text in texts(path)
        if " " in text and (match := pattern.search(re.sub(r"\s+", " ", text)))
    ]
    for page in PAGES:
        prose = re.sub(
            r"```.*?```|<!--.*?-->|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        if page != GLOSSARY:
            found += [f"{page.name}: {match[0]}" for match in pattern.finditer(prose)]
    assert found == []
