from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg.errors import BundleError
from streamseg.runtime.bundle.bundle import new_bundle, read_bundle
from streamseg.runtime.bundle.manifest import PolicySpec, parse_manifest
from tests.runtime.toy import toy_manifest, write_toy_bundle


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "toy")


def content(toy: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((toy / "manifest.json").read_text())
    return loaded


def test_manifest_survives_a_round_trip() -> None:
    manifest = toy_manifest({"warm.onnx": b"", "key.onnx": b"a", "step.onnx": b"b"})
    assert parse_manifest(manifest.to_json()) == manifest


def test_unknown_fields_are_kept(toy: Path) -> None:
    text = json.dumps({**content(toy), "calibration": {"method": "entropy"}})
    assert json.loads(parse_manifest(text).to_json())["calibration"] == {"method": "entropy"}


def test_schedule_takes_the_last_row_that_holds(toy: Path) -> None:
    manifest = read_bundle(toy).manifest
    graphs = [manifest.row_at(step).graph for step in range(10)]
    assert graphs == ["warm"] * 2 + ["step"] * 2 + (["key"] + ["step"] * 3 + ["key", "step"])


def test_changed_byte_is_refused(toy: Path) -> None:
    graph = toy / "step.onnx"
    damaged = bytearray(graph.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    graph.write_bytes(damaged)
    with pytest.raises(BundleError, match="changed or damaged after export"):
        read_bundle(toy)


def test_missing_file_and_links_are_refused(toy: Path, tmp_path: Path) -> None:
    graph = toy / "step.onnx"
    outside = tmp_path / "outside.onnx"
    graph.rename(outside)
    with pytest.raises(BundleError, match="lacks"):
        read_bundle(toy)
    graph.symlink_to(outside)
    with pytest.raises(BundleError, match="is a link"):
        read_bundle(toy)


def test_folder_that_is_not_a_bundle_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is missing; make one with: streamseg export"):
        read_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        read_bundle(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="a file, not a bundle folder"):
        read_bundle(tmp_path / "file")


Change = Callable[[dict[str, Any]], None]


def put(path: str, value: Any) -> Change:
    """Set ``graphs.step.file``-like places."""

    def change(manifest: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = manifest
        for name in parents:
            place = place[int(name)] if name.isdigit() else place[name]
        place[int(last) if last.isdigit() else last] = value

    return change


def drop(name: str) -> Change:
    return lambda manifest: manifest.pop(name) and None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("format", 2), "format 2, this streamseg reads format 1"),
        (drop("frame"), "has no 'frame'"),
        (put("frame.shape", [1, 6, 8, 4]), r"'frame.shape' is \[1, 6, 8, 4\], expected"),
        (put("frame.resize", "crop"), "'frame.resize' is \"crop\", expected one of stretch"),
        (put("graphs.step.file", "../step.onnx"), "inside the bundle"),
        (put("graphs.step.file", "/etc/passwd"), "inside the bundle"),
        (put("graphs.step.file", "other.onnx"), "no SHA-256 for other.onnx"),
        (put("files", {"../x": "sha256:" + "0" * 64}), "inside the bundle"),
        (put("files", {"step.onnx": 3}), "'files'"),
        (put("files", {"\n": None}), "printable keys"),
        (put("files", {"x" * 201: None}), "at most 200 characters"),
        (put("graphs", {"step\u2028": {}}), "printable keys"),
        (put("graphs.step.file", "step\n.onnx"), "inside the bundle"),
        (put("state.0.name", "past"), "names a tensor twice"),
        (put("state.0.kind", "magic"), "expected one of carry, ring, key"),
        (put("state.0.shape", [1 << 20, 1 << 20]), "product of at most"),
        (put("state.0.slots", 2), "has slots but is not a ring"),
        (put("graphs.step.reads", ["trace", "past"]), None),
        (put("graphs.step.writes", ["trace"]), "does not write 'past'"),
        (put("graphs.step.reads", ["past", "key"]), "does not read 'trace'"),
        (put("graphs.step.outputs", ["logits"]), "expected labels and perhaps logits"),
        (put("schedule.0.graph", "absent"), "of no entry"),
        (put("schedule", []), "leaves steps without a graph"),
        (put("schedule.1.ages", {"past": [1, 3]}), "at most 2"),
        (put("schedule.1.ages", {"past": [1]}), "expected 2 of at most 2"),
        (put("schedule.1.from", 1), "before anything was written there"),
        (put("classes", []), "must list the ids"),
        (put("classes.0.color", [0, 0, 256]), "whole number from 0 to 255"),
    ],
)
def test_contradictions_are_reported(toy: Path, change: Change, reason: str | None) -> None:
    manifest = content(toy)
    change(manifest)
    (toy / "manifest.json").write_text(json.dumps(manifest))
    if reason is None:
        read_bundle(toy)
        return
    with pytest.raises(BundleError, match=reason) as caught:
        read_bundle(toy)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=150)
def test_any_value_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    manifest = json.loads(
        toy_manifest({"warm.onnx": b"", "key.onnx": b"a", "step.onnx": b"b"}).to_json()
    )
    place: Any = manifest
    while True:
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(json_values)
            break
        place = inner
    try:
        parse_manifest(json.dumps(manifest))
    except BundleError as error:
        assert str(error).isprintable()  # noqa: PT017


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_rejected(noise: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(noise.decode("latin-1"))


def test_new_bundle_leaves_nothing_after_a_failure(toy: Path) -> None:
    before = sorted(p.name for p in toy.parent.iterdir())

    def fail() -> None:
        with new_bundle(toy) as draft:
            (draft / "manifest.json").write_text("{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert sorted(p.name for p in toy.parent.iterdir()) == before
    read_bundle(toy)


def test_unwritable_target_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BundleError, match="cannot make the folder"),
        new_bundle(tmp_path / "file" / "street"),
    ):
        pass


@pytest.mark.parametrize("value", [0, -1, 255.5, "27", True, None])
def test_scene_cut_threshold_is_checked(toy: Path, value: Any) -> None:
    text = json.dumps({**content(toy), "policy": {"scene_cut": value}})
    with pytest.raises(BundleError, match=r"'policy.scene_cut' is .*, expected a number"):
        parse_manifest(text)


def test_scene_cut_threshold_is_kept_and_has_a_default(toy: Path) -> None:
    kept = parse_manifest(json.dumps({**content(toy), "policy": {"scene_cut": 40}}))
    assert kept.policy.scene_cut == 40
    assert parse_manifest(kept.to_json()) == kept
    older = {name: value for name, value in content(toy).items() if name != "policy"}
    assert parse_manifest(json.dumps(older)).policy == PolicySpec()
