"""Damaged manifests and arrays are refused, and what is accepted can be used and shown."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamseg
from streamseg.cli.main import cli
from streamseg.errors import BundleError, StreamsegError
from streamseg.runtime.bundle.bundle import MANIFEST, digest, read_bundle, read_manifest
from tests.fuzzing import damage, inputs, scaled
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle

# What programs write by mistake, and what people write on purpose.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2, 3, 255, 256, 1 << 31, 1 << 70, 1e308, -0.5, float("nan")),
    *("", "step", "past", "../x", "\ud800", "\x1b[31m", "a\nb", "file:step.onnx", "x" * 300),
    *([], [1], [0, 0, 0], [1e300] * 3, [-300.0] * 3, [[1]], {}, {"past": [1, 1]}, {"x": {}}),
)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a JSON document."""
    keys = content.items() if isinstance(content, dict) else enumerate(content)
    found = []
    for key, value in keys:
        found.append((content, key))
        if isinstance(value, (dict, list)):
            found += places(value)
    return found


def test_damaged_text_is_refused_or_read(tmp_path: Path) -> None:
    rng = random.Random(7)
    bundle = write_toy_bundle(tmp_path / "toy")
    good = (bundle / MANIFEST).read_bytes()
    for _ in range(inputs(1000)):
        (bundle / MANIFEST).write_bytes(damage(good, rng))
        try:
            read_manifest(bundle)
        except BundleError as error:
            assert str(error).isprintable()  # noqa: PT017


def test_accepted_manifest_runs_or_is_refused(tmp_path: Path) -> None:
    """Replaced values: reading, showing and stepping end in a result or in a StreamsegError."""
    rng = random.Random(11)
    bundle = write_toy_bundle(tmp_path / "toy")
    good = (bundle / MANIFEST).read_text()
    frame = np.zeros((2 * HEIGHT, WIDTH, 3), np.uint8)
    ran = 0
    for _ in range(inputs(400)):
        manifest = json.loads(good)
        for _ in range(rng.randint(1, 2)):
            container, key = rng.choice(places(manifest))
            if rng.randrange(4):
                container[key] = rng.choice(VALUES)
            else:
                del container[key]
        (bundle / MANIFEST).write_text(json.dumps(manifest))
        try:
            cli.main(["inspect", str(bundle)], standalone_mode=False)
            with streamseg.open(bundle, threads=1, letterbox=bool(rng.randrange(2))) as stream:
                for _ in range(6):
                    stream.step(frame)
            ran += 1
        except StreamsegError as error:
            assert str(error).encode()  # noqa: PT017
    assert ran > scaled(8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "not valid JSON"),
        ('{"format": ' + "1" * 5000 + "}", "not valid JSON"),
        ('{"format": 1, "model": {"name": "\\ud800"}}', "not valid JSON"),
        ('{"format": 1e999}', "whole number"),
    ],
)
def test_extreme_text_is_rejected(tmp_path: Path, text: str, reason: str) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=reason):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("field", "value"),
    [("mean", [0, 0, 256]), ("mean", [-1, 0, 0]), ("std", [0, 1, 1]), ("std", [1, 1, -1])],
)
def test_normalisation_out_of_range_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["frame"][field] = value
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=rf"'frame\.{field}' is .*, expected three numbers"):
        read_bundle(bundle)


def test_damaged_arrays_are_refused_or_read(tmp_path: Path) -> None:
    rng = random.Random(13)
    bundle = write_toy_bundle(tmp_path / "toy")
    manifest = json.loads((bundle / MANIFEST).read_text())
    row = {"name": "g", "shape": [2, 3], "dtype": "float32", "init": "file:g.npy", "kind": "given"}
    manifest["state"].append(row)
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.ones((2, 3), np.float32))
    np.savez(archive, np.ones((2, 3), np.float32))
    for number in range(inputs(450)):
        header, body = array.getvalue()[:128], array.getvalue()[128:]
        contents = (damage(header, rng) + body, header + damage(body, rng), archive.getvalue())
        (bundle / "g.npy").write_bytes(contents[number % 3])
        manifest["files"]["g.npy"] = digest(contents[number % 3])
        (bundle / MANIFEST).write_text(json.dumps(manifest))
        try:
            assert read_bundle(bundle).given["g"].shape == (2, 3)
        except BundleError as error:
            assert "'g'" in str(error)  # noqa: PT017
