"""Commands in the documents exist with their options, and so do the errors of docs/faq.md.

.ci/newcomer.py runs the commands of README, quick start and tutorials in a fresh environment.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from streamseg.cli.main import cli
from tests.conftest import ROOT
from tests.test_rooms import modules

BLOCK = re.compile(r"^( *)```(?:console|bash)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every ``streamseg`` command in a page's blocks."""
    for _, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|", line):
                words = shlex.split(part, comments=True)
                if words[:1] == ["streamseg"]:
                    yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_of_the_page_exist(page: Path) -> None:
    context = click.Context(cli)
    for words in commands(page):
        command = cli.get_command(context, words[0])
        if isinstance(command, click.Group):
            command = command.get_command(context, words[1])
        assert command is not None, words
        known = {
            name for option in command.params for name in (*option.opts, *option.secondary_opts)
        }
        known |= {"--help", "--version"}
        used = {word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
        assert used <= known, f"streamseg {words[0]}: {used - known}"


def test_newcomer_runs_readme_quick_start_and_tutorials() -> None:
    script = (ROOT / ".ci/newcomer.py").read_text(encoding="utf-8")
    pages = ["README.md", "docs/quickstart.md"]
    pages += [f"docs/tutorials/{path.name}" for path in (ROOT / "docs/tutorials").glob("*.md")]
    assert [page for page in pages if f'"{page}"' not in script] == []
    assert "make newcomer\n" in (ROOT / ".ci/run").read_text()


def messages() -> str:
    """All texts of the product, those of one expression joined."""
    parts = []
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
                parts.append("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
    return "\n".join(parts)


def test_errors_of_the_faq_exist() -> None:
    page = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
    fragments = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(fragments) > 10
    known = messages()
    assert [fragment for fragment in fragments if fragment not in known] == []
