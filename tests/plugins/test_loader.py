"""The loader takes the library that was built with the package, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from streamseg import __version__
from streamseg.errors import PluginNotFound
from streamseg.plugins.loader import (
    CUDA_LIBRARY,
    LIBRARY,
    ORT_CUDA_LIBRARY,
    RECORD,
    TENSORRT_LIBRARY,
    find_library,
    find_ort_cuda_library,
    find_tensorrt_library,
)
from tests.plugins.cuda_builds import write_records

DIGEST = "55e5cc2b7b5a7e3a3fda8d4f3c5d7a0f"  # of no file


def place(folder: Path, content: bytes | None, record: dict[str, str | None] | None) -> Path:
    if content is not None:
        (folder / LIBRARY).write_bytes(content)
    if record is not None:
        (folder / RECORD).write_text(json.dumps(record))
    return folder / LIBRARY


def test_a_library_with_its_record_is_found(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    library = place(tmp_path, b"", {"version": __version__, "sha256": empty})
    assert find_library(library) == library


@pytest.mark.parametrize(
    ("content", "record", "complaint"),
    [
        (None, None, "is missing: it was not built"),
        (
            None,
            {"version": __version__, "sha256": None, "reason": "CMake was not found"},
            "is missing: CMake was not found. Install CMake",
        ),
        (b"x", None, "has no record of its build"),
        (b"x", {"version": "0.0.1", "sha256": DIGEST}, "is of streamseg 0.0.1, expected"),
        (b"x", {"version": __version__, "sha256": DIGEST}, "it was changed or damaged"),
    ],
)
def test_any_other_value_is_rejected(
    tmp_path: Path, content: bytes | None, record: dict[str, str | None] | None, complaint: str
) -> None:
    with pytest.raises(PluginNotFound, match=complaint):
        find_library(place(tmp_path, content, record))


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(PluginNotFound, match="expected an absolute one"):
        find_library(Path("plugins") / LIBRARY)


@pytest.mark.parametrize(
    ("find", "name"),
    [(find_ort_cuda_library, ORT_CUDA_LIBRARY), (find_tensorrt_library, TENSORRT_LIBRARY)],
)
def test_the_kernels_that_a_library_loads_from_beside_itself_are_checked(
    tmp_path: Path, find: Callable[[Path], Path], name: str
) -> None:
    library, kernels = tmp_path / name, tmp_path / CUDA_LIBRARY
    library.write_bytes(b"operators")
    write_records(tmp_path)
    with pytest.raises(PluginNotFound, match=f"CUDA operator library '{kernels}' is missing"):
        find(library)
    kernels.write_bytes(b"kernels")
    write_records(tmp_path)
    assert find(library) == library
    kernels.write_bytes(b"tampered")
    with pytest.raises(PluginNotFound, match=f"'{kernels}' has SHA-256 .* changed or damaged"):
        find(library)
