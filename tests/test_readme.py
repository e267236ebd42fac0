"""The README's example runs as it stands, and its commands are those of the quick start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from streamseg.export import export_bundle
from streamseg.export.parity import moving_pattern
from tests.conftest import ROOT
from tests.export.test_checkpoint import tiny

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) == 4
    torch.manual_seed(0)
    export_bundle(tiny(), tmp_path / "out" / "street", size=(64, 96))
    write_clip(tmp_path / "out" / "drive.mp4")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    labels = names["labels"]
    assert getattr(labels, "shape", None) == (48, 80)


def write_clip(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        for image in moving_pattern((48, 80), 5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_picture_is_small() -> None:
    assert (ROOT / "docs/images/state.webp").stat().st_size < 3e6
