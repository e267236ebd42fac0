"""Files of weights: told apart by their bytes, read without running what they hold."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import pickletools
import random
import struct
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from streamseg.errors import CheckpointError
from streamseg.export.containers.content import read_content
from streamseg.export.containers.state_dicts import find_state_dict, plain
from tests.fuzzing import damage, inputs

WEIGHTS = {
    "encoder.weight": torch.arange(24.0).reshape(2, 3, 4),
    "encoder.half": torch.arange(6).half(),
    "encoder.count": torch.tensor(7),
    "head.transposed": torch.arange(12.0).reshape(3, 4).t(),
    "head.brain": torch.ones(3, dtype=torch.bfloat16),
}


def read(path: Path) -> dict[str, torch.Tensor]:
    return find_state_dict(read_content(path).value, path.stat().st_size).tensors


def zipped(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def legacy(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def numpy_pickle(protocol: int) -> Callable[[Any], bytes]:
    def write(value: Any) -> bytes:
        arrays = {k: v.numpy() for k, v in value.items() if v.dtype != torch.bfloat16}
        return pickle.dumps({"model": arrays, "matching_heuristics": True}, protocol)

    return write


WRITERS: dict[str, Callable[[Any], bytes]] = {
    "zip": zipped,
    "legacy": legacy,
    "pickle": lambda value: pickle.dumps(dict(value)),
    "safetensors": lambda value: save({k: v.contiguous() for k, v in value.items()}),
    **{f"numpy-{protocol}": numpy_pickle(protocol) for protocol in range(6)},
}


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


def test_what_torch_itself_loads_is_what_is_read(tmp_path: Path) -> None:
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


def test_whole_pickled_network_gives_its_weights(tmp_path: Path) -> None:
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


class Config:
    """Stands for a framework's object."""

    def __init__(self) -> None:
        self.window = 4
        self.names = ["road", "car"]


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


def test_archives_of_other_things_are_named(tmp_path: Path) -> None:
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


class Command:
    """A pickle of it runs a command where it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch came-through",)


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


RUNNING = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "exec")
RUNNING += ("pickle.find_class", "shutil.rmtree", "os.remove", "socket.connect", "os.fork")
_seen: list[str] = []
_watching = [False]


def _audit(event: str, _arguments: tuple[Any, ...]) -> None:
    if _watching[0] and event.startswith(RUNNING):
        _seen.append(event)


@pytest.fixture
def running() -> Iterator[list[str]]:
    """Events of Python's audit hooks that mean that something ran."""
    if not _seen and not _watching[0]:
        sys.addaudithook(_audit)
    _seen.clear()
    _watching[0] = True
    yield _seen
    _watching[0] = False


def seeds() -> list[bytes]:
    """Small files of every container, some with commands in them."""
    hooked = {"state_dict": dict(WEIGHTS), "meta": {"hook": Command(), "config": Config()}}
    return [
        zipped(hooked),
        legacy(hooked),
        *(WRITERS[name](WEIGHTS) for name in ("safetensors", "numpy-0", "numpy-2", "numpy-4")),
        pickle.dumps({"state_dict": Command(), "weights": Config()}, 4),
        zipped({"teacher": torch.nn.Linear(2, 2), "ema": {"module": dict(WEIGHTS)}}),
    ]


def splice(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Operations of one pickle inside another."""
    first, last = sorted(rng.randrange(len(other) + 1) for _ in range(2))
    at = rng.randrange(len(content) + 1)
    return content[:at] + other[first : min(last, first + 60)] + content[at:]


def test_damaged_files_run_nothing_and_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng, kinds = random.Random(20), seeds()
    path = tmp_path / "x.pth"
    outcomes: collections.Counter[str] = collections.Counter()
    tracemalloc.start()
    for _ in range(inputs(3000)):
        content = damage(rng.choice(kinds), rng)
        if rng.random() < 0.3:
            content = splice(content, rng.choice(kinds), rng)
        path.write_bytes(content)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        message = ""
        try:
            found = find_state_dict(read_content(path).value, len(content))
            outcomes["read"] += 1
            assert sum(t.numel() * t.element_size() for t in found.tensors.values()) < 1 << 21
        except (CheckpointError, ValueError) as error:
            outcomes["refused"] += 1
            message = str(error)
        assert "\n" not in message, content
        assert len(message) < 2000
        peak = tracemalloc.get_traced_memory()[1] - before
        assert peak < 150 * len(content) + (4 << 20), content
    tracemalloc.stop()
    print(f"damaged files: {dict(outcomes)}")
    assert running == []
    assert not (tmp_path / "came-through").exists()
    assert min(outcomes["read"], outcomes["refused"]) > 100


def test_audit_notices_what_runs(running: list[str]) -> None:
    """The check above can fail: Python's own unpickler is caught."""
    content = pickle.dumps(Config())
    assert any(code.name == "STACK_GLOBAL" for code, *_ in pickletools.genops(content))
    pickle.loads(content)
    assert "pickle.find_class" in running
