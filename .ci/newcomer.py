#!/usr/bin/env python3
"""Plays the newcomer: the demo, then what README, quick start, tutorials and notebook say.

Works on a copy of the files that git knows, in the environment that `make demo` makes. Commands run
as they stand, in the order of the pages, and each prints its time; the first that fails ends the
run. A link to a page that does not exist fails too. Usage: .ci/newcomer.py [PYTHON]
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build" / "newcomer"
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/tutorials/engine.md",
    "docs/tutorials/camera.md",
    "docs/tutorials/int8.md",
)
NOTEBOOK = (
    "pip install -q matplotlib nbclient ipykernel",
    "jupyter execute samples/quickstart.ipynb --output=../out/quickstart.ipynb",
)
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#]+)")


def copy_tree() -> None:
    """The files that git knows, as a clone would have them."""
    shutil.rmtree(PLACE, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        target = PLACE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)


def missing_pages() -> list[str]:
    """Links of the pages that lead nowhere."""
    return [
        f"{page}: {link}"
        for page in PAGES
        for link in LINK.findall((PLACE / page).read_text(encoding="utf-8"))
        if "://" not in link and not (PLACE / page).parent.joinpath(link).exists()
    ]


def steps() -> list[tuple[str, str, str]]:
    """(page, language, text) of everything that is run; what was run before is left out."""
    found: dict[tuple[str, str], str] = {}
    for page in PAGES:
        for language, text in BLOCK.findall((PLACE / page).read_text(encoding="utf-8")):
            lines = text.strip().splitlines() if language == "console" else [text]
            for line in lines:
                found.setdefault((language, line), page)
    for line in NOTEBOOK:
        found.setdefault(("console", line), "samples/quickstart.ipynb")
    return [(page, language, text) for (language, text), page in found.items()]


def run(page: str, text: str, command: list[str], environment: dict[str, str]) -> float:
    """Run one step and print its time; a failure ends the program with what it printed."""
    shown = text if text.count("\n") == 0 else "(Python example)"
    print(f"{page}: {shown}", flush=True)
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=PLACE, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\nfailed after {seconds:.0f} s: {page}: {text}")
    if text == "make demo":
        print(done.stdout)
    print(f"  {seconds:6.1f} s", flush=True)
    return seconds


def main() -> None:
    """Copy, check links, then run everything in order."""
    python = sys.argv[1] if len(sys.argv) > 1 else "python3"
    copy_tree()
    lost = missing_pages()
    if lost:
        raise SystemExit("links that lead nowhere:\n" + "\n".join(lost))
    binaries = PLACE / ".venv-demo" / "bin"
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    demo = ["make", "demo", f"PYTHON={python}"]
    times = [{"step": "make demo", "seconds": run("README.md", "make demo", demo, environment)}]
    for page, language, text in steps():
        command = ["bash", "-ec", text] if language == "console" else ["python", "-c", text]
        times.append({"step": text, "seconds": run(page, text, command, environment)})
    (ROOT / "build" / "newcomer.json").write_text(json.dumps(times, indent=1))
    print(f"{len(times)} steps, {sum(entry['seconds'] for entry in times):.0f} s")


if __name__ == "__main__":
    main()
