"""Pages of the site that come from the code, links that lead out of docs/, and a check.

The hooks of ``mkdocs build``: the command line's help and the Python reference become pages, the
changelog and CONTRIBUTING.md join them, and a public name without an entry is a warning, which
``--strict`` makes an error.
"""

from __future__ import annotations

import logging
import posixpath
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
NAMES = ROOT / "tests" / "public_names.txt"
LINK = re.compile(r"\]\(((?:\.\./)+[^)\s]+)\)")
COPIED = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"reference/cli.md": command_line()}
    for room, packages in rooms().items():
        pages[f"reference/python/{room}.md"] = python_page(room, packages)
    pages["reference/python/errors.md"] = "# streamseg.errors\n\n::: streamseg.errors\n"
    for name, source in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        # Links of a file at the root, seen from docs/.
        pages[name] = re.sub(r"\]\((?!https?:|#)(?:docs/)?([^)]+)\)", _inside, text)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def _inside(match: re.Match[str]) -> str:
    whole, target = match.group(0), match.group(1)
    return f"]({target})" if whole.startswith("](docs/") else f"](../{target})"


def rooms() -> dict[str, list[str]]:
    """Room -> its packages, of the public names."""
    found: dict[str, list[str]] = {}
    for line in NAMES.read_text(encoding="utf-8").splitlines():
        package = line.rpartition(".")[0]
        room = package.split(".")[1] if "." in package else "streamseg"
        packages = found.setdefault(room, [])
        if package not in packages:
            packages.append(package)
    return found


def python_page(room: str, packages: list[str]) -> str:
    """The reference of a room: each of its packages with the names that it exports."""
    title = "streamseg" if room == "streamseg" else f"streamseg.{room}"
    parts = [f"# {title}\n"]
    for package in packages:
        heading = f"## {package}\n\n" if len(packages) > 1 else ""
        level = 3 if len(packages) > 1 else 2
        parts.append(f"{heading}::: {package}\n    options:\n      heading_level: {level}\n")
    return "\n".join(parts)


def command_line() -> str:
    """The help of every command."""
    from streamseg.cli.main import cli

    context = click.Context(cli, info_name="streamseg", max_content_width=96, terminal_width=96)
    parts = ["# Command line\n", _block(cli.get_help(context))]
    for name, command in commands(context):
        inner = click.Context(command, info_name=name, parent=context)
        parts += [f"## streamseg {name}\n", _block(command.get_help(inner))]
    return "\n".join(parts)


def commands(context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """The commands by name, hidden ones left out."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield name, command


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n"


def on_page_markdown(markdown: str, page: Page, config: Any, **_: Any) -> str:
    """Point links that leave docs/ at the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def outward(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, match.group(1)))
        if target.startswith("docs/"):
            return match.group(0)
        if not (ROOT / target.partition("#")[0]).exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        return f"]({config.repo_url}/blob/main/{target})"

    return LINK.sub(outward, markdown)


def on_post_build(config: Any) -> None:
    """Warn about public names that the reference lacks."""
    inventory = (Path(config.site_dir) / "objects.inv").read_bytes()
    lines = zlib.decompress(inventory.split(b"\n", 4)[4]).decode().splitlines()
    known = {line.split(" ", 1)[0] for line in lines}
    for name in NAMES.read_text(encoding="utf-8").splitlines():
        # A version is not an object of the reference.
        if name not in known and not name.endswith("__version__"):
            log.warning("%s is public and missing in the reference", name)
