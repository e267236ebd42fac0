"""The Python runtime reproduces the conformance set on every backend that this machine has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import streamseg
from streamseg.errors import PluginNotFound
from streamseg.runtime.stream import Stream
from streamseg.runtime.video.resize import nearest_indices, place_frame
from tests.conformance.write_cases import FOLDER, write_all
from tests.conftest import CPU_OPENINGS

CASES = sorted(path.parent.name for path in FOLDER.glob("*/case.json"))


def read_case(name: str) -> tuple[dict[str, object], np.ndarray, np.ndarray]:
    folder = FOLDER / name
    about = json.loads((folder / "case.json").read_text())
    shape = (about["steps"], about["height"], about["width"])
    frames = np.fromfile(folder / "frames.bin", np.uint8).reshape(*shape, 3)
    return about, frames, np.fromfile(folder / "labels.bin", np.uint8).reshape(shape)


def test_committed_cases_are_what_the_script_writes(tmp_path: Path) -> None:
    write_all(tmp_path / "data")
    names = {path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file()}
    written = {
        path.relative_to(tmp_path / "data") for path in tmp_path.rglob("*") if path.is_file()
    }
    assert names == written
    for name in names:
        if name.suffix != ".onnx" and name.name != "manifest.json":
            assert (FOLDER / name).read_bytes() == (tmp_path / "data" / name).read_bytes(), name


def has_operators(name: str) -> bool:
    model = onnx.load(next((FOLDER / name / "bundle").glob("*.onnx")))
    return any(node.domain == "streamseg" for node in model.graph.node)


def open_case(name: str, opening: dict[str, Any]) -> Stream:
    try:
        return streamseg.open(FOLDER / name / "bundle", **opening)
    except PluginNotFound as error:
        pytest.skip(str(error).partition(". ")[0])


@pytest.mark.parametrize("opening", CPU_OPENINGS)
@pytest.mark.parametrize("name", CASES)
def test_labels_equal_those_recorded(name: str, opening: dict[str, Any]) -> None:
    if opening["native"] and not has_operators(name):
        pytest.skip("the graph has no operators of ours")
    about, frames, labels = read_case(name)
    kept, step = {}, 0
    with open_case(name, opening) as stream:
        for action in about["actions"]:
            verb, _, label = action.partition(" ")
            if verb == "reset":
                stream.reset()
            elif verb == "snapshot":
                kept[label] = stream.snapshot()
            elif verb == "restore":
                stream.restore(kept[label])
            else:
                found = stream.step(frames[step]).labels
                np.testing.assert_array_equal(found, labels[step], err_msg=f"step {step}")
                step += 1
    assert step == len(frames)


def test_recorded_labels_depend_on_state() -> None:
    """A runtime that forgets its state, or never resets, must fail."""
    for name in set(CASES) - {"stateless", "given"}:
        _, frames, labels = read_case(name)
        with streamseg.open(FOLDER / name / "bundle") as stream:
            forgetful = []
            for frame in frames:
                stream.reset()
                forgetful.append(stream.step(frame).labels.copy())
            assert not np.array_equal(np.stack(forgetful), labels), name
            stream.reset()
            unbroken = [stream.step(frame).labels.copy() for frame in frames]
            assert not np.array_equal(np.stack(unbroken), labels), name


def test_regions_and_indices_equal_those_recorded() -> None:
    for row in json.loads((FOLDER / "geometry.json").read_text()):
        frame, model = tuple(row["frame"]), tuple(row["model"])
        region = place_frame(frame, model, row["resize"])
        assert [region.top, region.bottom, region.left, region.right] == row["region"]
        rows = region.top + nearest_indices(region.size[0], frame[0])
        columns = region.left + nearest_indices(region.size[1], frame[1])
        assert rows.tolist() == row["rows"]
        assert columns.tolist() == row["columns"]
