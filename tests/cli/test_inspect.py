from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamseg.cli.main import run
from tests.runtime.toy import HEIGHT, WIDTH, write_toy_bundle


def test_inspect_prints_everything_of_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    with pytest.raises(SystemExit) as caught:
        run(["inspect", str(bundle)])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    words = " ".join(text.replace("│", " ").split())
    one = 4 * HEIGHT * WIDTH
    for expected in (
        "verified, 3 files",
        "model: family toy, encoder none, classes 3",
        f"frame: uint8 [1, {HEIGHT}, {WIDTH}, 3] RGB, stretch",
        "weights: source made by a test, license Apache-2.0",
        "parity: frames 0",
        "made by: streamseg test",
        f"trace [1, 1, {HEIGHT}, {WIDTH}] float32 carry {one} {2 * one}",
        f"past [1, 1, {HEIGHT}, {WIDTH}] float32 ring of 3 {3 * one} {3 * one}",
        f"key [1, 1, {HEIGHT}, {WIDTH}] float32 key {one} {one}",
        f"total {5 * one} {6 * one}".replace(str(6 * one), f"{6 * one:,}"),
        "schedule: from step 4, every 4 steps: key, past at ages [1, 2]",
        "classes (3): 0 trace, 1 past, 2 key",
    ):
        assert expected in words


def test_inspect_rejects_a_folder_that_is_not_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["inspect", str(tmp_path)])
    assert caught.value.code == 2
    assert "it has no manifest.json" in capsys.readouterr().err


def test_inspect_escapes_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["classes"][0]["name"] = "road\x1b[2J\r\nfake: line\u202e[red]"
    manifest["weights"]["source"] = "\x07\x1b]0;title\x07"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit) as caught:
        run(["inspect", str(bundle)])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "0 road\\x1b[2J\\r\\nfake: line\\u202e[red], 1 past" in text
