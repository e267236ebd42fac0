"""Files of weights: distinguished by their bytes, read without running what they hold."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamseg.errors import CheckpointError
from streamseg.export.containers.content import read_content
from streamseg.export.containers.state_dicts import find_state_dict, plain
from tests.export.damaged_files import (
    WEIGHTS,
    WRITERS,
    Command,
    Config,
    legacy,
    read_damaged,
    watch_running,
    zipped,
)
from tests.fuzzing import inputs


def read(path: Path) -> dict[str, torch.Tensor]:
    return find_state_dict(read_content(path).value, path.stat().st_size).tensors


@pytest.mark.parametrize("suffix", ["x.pth", "x.safetensors", "x"])
@pytest.mark.parametrize("writer", WRITERS)
def test_content_decides_and_not_the_suffix(writer: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / suffix
    path.write_bytes(WRITERS[writer](WEIGHTS))
    found = read(path)
    assert len(found) >= 4
    for key, value in found.items():
        assert value.dtype == WEIGHTS[key].dtype
        assert torch.equal(value, WEIGHTS[key]), key


def test_content_equals_what_torch_loads(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimiser.step()
    state = {"state_dict": network.state_dict(), "optimizer": optimiser.state_dict()}
    torch.save(state, tmp_path / "x.pth")
    expected = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    found = find_state_dict(read_content(tmp_path / "x.pth").value, 1 << 20)
    assert found.place == ("state_dict",)
    assert found.beside == ("optimizer",)
    assert all(torch.equal(found.tensors[key], value) for key, value in expected.items())


def test_pickled_network_gives_its_weights(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save({"model": network, "epoch": 3}, tmp_path / "x.pth")
    found = read(tmp_path / "x.pth")
    assert found.keys() == network.state_dict().keys()
    assert torch.equal(found["0.weight"], network[0].weight)


def test_shared_and_big_endian_arrays(tmp_path: Path) -> None:
    values = np.arange(6, dtype=">f4").reshape(2, 3)
    state = {"a": values, "b": values, "c": np.asfortranarray(values), "d": np.float64(2.5)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(state))
    found = read(tmp_path / "x.pkl")
    assert sorted(found) == ["a", "b", "c"]
    assert all(
        np.array_equal(value.numpy(), np.arange(6).reshape(2, 3)) for value in found.values()
    )


def test_other_objects_become_inert_records(tmp_path: Path) -> None:
    meta = {
        "config": Config(),
        "arguments": argparse.Namespace(lr=0.1),
        "counts": collections.Counter("aab"),
        "loss": np.float32(0.5),
        "scores": collections.defaultdict(list),
    }
    torch.save({"state_dict": WEIGHTS, "meta": meta}, tmp_path / "x.pth")
    kept = plain(read_content(tmp_path / "x.pth").value["meta"])
    assert kept["config"] == {"window": 4, "names": ["road", "car"]}
    assert kept["arguments"] == {"lr": 0.1}
    assert kept["loss"] == 0.5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n<html lang='en'>", "web page"),
        (b"not a checkpoint", "neither safetensors nor"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b'{"error": "Repository not found"}', "JSON text"),
        (b"PK\x03\x04" + bytes(40), "damaged or truncated"),
        (b"\x08\0\0\0\0\0\0\0{}", "safetensors"),
        (b"\x80\x02}q\x00", "damaged or truncated"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"epoch": 3}), "no tensors; its keys: epoch"),
        (b"\x80\x04\x82\x01.", "EXT1"),
    ],
)
def test_other_files_are_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises((CheckpointError, ValueError), match=reason) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("writer", ["zip", "legacy", "safetensors", "numpy-2"])
def test_truncated_files_are_refused(writer: str, tmp_path: Path) -> None:
    whole = WRITERS[writer](WEIGHTS)
    path = tmp_path / "x.pth"
    for share in (0.2, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match="truncated"):
            read(path)


def test_archives_of_other_content_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/model.pth", b"x")
    with pytest.raises(CheckpointError, match=r"not of torch.save; it holds weights/model.pth"):
        read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read(path)


@pytest.mark.parametrize("write", [zipped, legacy, pickle.dumps])
def test_commands_in_a_pickle_do_not_run(
    write: Callable[[Any], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(write({"state_dict": dict(WEIGHTS), "hook": Command()}))
    assert len(read(tmp_path / "x.pth")) == len(WEIGHTS)
    (tmp_path / "x.pth").write_bytes(write({"state_dict": Command()}))
    with pytest.raises(ValueError, match="no tensors"):
        read(tmp_path / "x.pth")
    assert not (tmp_path / "came-through").exists()


def storage(count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A file whose tensor claims ``size`` over a storage that claims ``count``."""
    content = zipped({"a": torch.zeros(5)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                # BININT1 5 of the storage, then of the size, each followed by its own context.
                assert data.count(b"K\x05") == 2
                first, middle, last = data.split(b"K\x05")
                number = b"J" + struct.pack("<i", count)
                extents = b"".join(b"J" + struct.pack("<i", n) for n in size)
                data = first + number + middle + extents + last
                if stride != (1,):
                    data = data.replace(b"K\x01\x85", b"K\x00\x85")
            new.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("count", "size", "stride"),
    [(2**31 - 1, (5,), (1,)), (5, (2**31 - 1,), (1,)), (5, (2**31 - 1,), (0,)), (6, (6,), (1,))],
)
def test_sizes_are_checked_before_memory_is_taken(
    count: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(storage(count, size, stride))
    tracemalloc.start()
    with pytest.raises((CheckpointError, ValueError), match=r"declared|outside|add up"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


BOMBS = {
    # Each asks a naive reader for far more memory, time or stack than the file has bytes.
    "byte array": opcodes(b"\x96" + struct.pack("<Q", 1 << 40)),
    "memo index": opcodes(b"}r" + struct.pack("<I", 0xFFFFFFFF)),
    "unicode": opcodes(b"\x8d" + struct.pack("<Q", 1 << 40)),
    "frame": opcodes(b"\x95" + struct.pack("<Q", 1 << 40), b"}"),
    "nested lists": opcodes(b"]" * 200_000, b"a" * 199_999),
    "nested tuples as a key": opcodes(b"}", b")", b"\x85" * 200_000, b"Ns"),
    "laughs": opcodes(b"]", b"".join(b"2\x86" for _ in range(10_000))),
    "itself": opcodes(b"}q\x00", b"\x8c\x05model", b"h\x00s"),
    "copies": opcodes(
        b"\x8c\x06latin1q\x00", b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x01]",
        b"".join(b"c_codecs\nencode\nh\x01h\x00\x86Ra" for _ in range(5000)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_files_take_little_memory(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(BOMBS[bomb])
    tracemalloc.start()
    with pytest.raises((CheckpointError, ValueError)):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * len(BOMBS[bomb]) + (4 << 20)


def test_inflated_archives_are_refused(tmp_path: Path) -> None:
    content = zipped({"a": torch.zeros(1 << 20)})
    path = tmp_path / "x.pth"
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed more than 16 times"):
        read(path)


def test_damaged_files_run_nothing_and_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read_damaged(50, tmp_path / "x.pth", seed=0)  # imports run code of modules
    with watch_running() as running:
        tally = read_damaged(inputs(3000), tmp_path / "x.pth", seed=20)
    assert running == []
    assert not (tmp_path / "came-through").exists()
    assert min(tally.outcomes["read"], tally.outcomes["refused"]) > 100


def test_audit_notices_what_runs() -> None:
    """The check above can fail: Python's own unpickler is caught."""
    content = pickle.dumps(Config())
    with watch_running() as running:
        pickle.loads(content)
    assert "pickle.find_class" in running
