"""Write the Python examples of README, quick start and tutorials as files, for the type checker.

Usage: python .ci/examples.py FOLDER
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def main() -> None:
    """One file for each example, named after its page."""
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = [ROOT / "README.md", ROOT / "docs/quickstart.md", *(ROOT / "docs/tutorials").glob("*")]
    for page in pages:
        for number, text in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            (folder / f"{page.stem.lower()}_{number}.py").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
