"""``streamseg export`` from the command line: what it prints, and one line for each mistake."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.cli.main import run
from streamseg.export import save_checkpoint
from streamseg.runtime.bundle.bundle import read_bundle
from tests.export.test_checkpoint import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(tiny(), path)
    return path


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


WINDOW = ("--set", "window=4", "--set", "shift=2")


def test_export_prints_sizes_and_parity(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "street"
    assert call("export", checkpoint, "--size", "64x96", *WINDOW, "--letterbox", "-o", out) == 0
    message = capsys.readouterr().out
    manifest = read_bundle(out).manifest
    assert f"{manifest.model['nodes']['step']} nodes" in message
    assert "parity against torch 2" in message
    assert "float32, over 4 frames: state within" in message
    assert "does not show that the import is the network that was trained" in message
    assert manifest.frame.resize == "letterbox"


def test_batch_names_the_bundle_that_is_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle of one stream lies in a temporary folder, which is gone afterwards."""
    out = tmp_path / "street"
    assert call("export", checkpoint, "--size", "64x96", *WINDOW, "--batch", "2", "-o", out) == 0
    message = capsys.readouterr().out
    assert "one stream a step: fp32, " in message
    assert f"{out}: 2 streams a step; " in message
    assert "/streamseg-" not in message


def test_memory_instead_of_the_networks_state_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "street"
    arguments = ("--size", "64x96", *WINDOW, "--memory", "gated", "-o", out)
    assert call("export", checkpoint, *arguments) == 0
    assert "memory 'gated' replaces the network's own state" in capsys.readouterr().out
    assert [spec.name for spec in read_bundle(out).manifest.state] == ["memory"]


def test_growth_of_the_map_is_warned_of(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert call("export", checkpoint, "--size", "72x72", *WINDOW, "-o", tmp_path / "street") == 0
    assert "the 9x9 map is enlarged to 12x12 to fit the window (4, 4): 78% more work" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.pth", "--size", "64x96"], "no checkpoint at absent.pth: expected"),
        (["CKPT", "--size", "64"], "is not a size; write height x width"),
        (["CKPT", "--size", "0x96"], "is not a size"),
        (["CKPT", "--size", "8x8"], "size 8x8 is not possible: encoder mit needs at least"),
        (["CKPT", "--size", "64x96", "--set", "window=0"], "window is 0 in --set, expected 1 or"),
        (["CKPT", "--size", "64x96", "--set", "window=5"], "window is 5 in --set, but the file sa"),
        (["CKPT", "--size", "64x96", "--set", "offsets=-1"], "tv3s has no setting 'offsets'"),
        (["CKPT", "--size", "64x96", "--set", "window"], "'window': expected NAME=VALUE"),
        (
            ["CKPT", "--size", "64x96", "--window", "4"],
            "--window was removed: write --set window=VALUE",
        ),
        (["CKPT", "--size", "64x96", *WINDOW, "-o", "photos"], "photos exists and is not a bundle"),
        (["CKPT", "--size", "64x96", *WINDOW, "-o", "/proc/street"], "cannot write /proc/street"),
    ],
)
def test_mistakes_print_one_line_and_leave_nothing(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    given = [str(checkpoint) if entry == "CKPT" else entry for entry in arguments]
    target = [] if "-o" in given else ["-o", "street"]
    assert call("export", *given, *target) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_failing_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "some/file")

    monkeypatch.setattr("streamseg.export.checkpoint.read_checkpoint", fail)
    (tmp_path / "c.pth").touch()
    arguments = ["export", str(tmp_path / "c.pth"), "--size", "64x64", "-o", str(tmp_path / "out")]
    assert call(*arguments) == 2
    assert capsys.readouterr().err == "streamseg: some/file: Permission denied\n"
    with pytest.raises(PermissionError):
        run(["--debug", *arguments])


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from streamseg.errors import CheckpointError

    given = ["export", str(tmp_path / "x"), "--size", "64x96", "-o", str(tmp_path / "o")]
    with pytest.raises(CheckpointError):
        run(["--debug", *given])
    with pytest.raises(CheckpointError):
        run([*given, "--debug"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_nothing(
    checkpoint: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", checkpoint, "--size", "64x96", *WINDOW, "-o", small_disk / "street") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(small_disk.iterdir()) == []


def test_torch_is_not_imported_by_the_command_line() -> None:
    code = "import sys, streamseg.cli.main, streamseg.cli.export; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
