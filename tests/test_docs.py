"""Links between the documents lead somewhere, and only to what the repository holds."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {".py", ".md", ".toml", ".h", ".cpp", ".cu", ".cuh", ".ts", ".js", ".html", ".sh", ".txt"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_exist(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    if page.name == "README.md":
        assert len(links) > 5
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


# Notes that are not in the repository, and paths of one machine.
OUTSIDE = re.compile(
    r"\b(DESIGN|STYLE|KERNELS|TENSORRT|EXPORT|MOVES)(\.md\b|,? section \d)"
    r"|shared/design|/work/(main|wt)/"
)


def test_files_name_no_document_from_outside_the_repository() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or path.suffix not in TEXT or not path.is_file():
            continue
        for line in path.read_text(errors="replace").splitlines():
            if OUTSIDE.search(line):
                found.append(f"{name}: {line.strip()[:100]}")
    assert found == []
