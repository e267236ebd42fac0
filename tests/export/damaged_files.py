"""Damaged files of weights, and a watch over what they might run; also for the long version."""

from __future__ import annotations

import encodings
import io
import os
import pickle
import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from streamseg.errors import CheckpointError
from streamseg.export.containers.content import read_content
from streamseg.export.containers.state_dicts import find_state_dict
from tests.fuzzing import damage

# Memory that reading a file may take: this many times its size, and a constant.
MOST_FACTOR, MOST_CONSTANT = 150, 4 << 20

WEIGHTS = {
    "encoder.weight": torch.arange(24.0).reshape(2, 3, 4),
    "encoder.half": torch.arange(6).half(),
    "encoder.count": torch.tensor(7),
    "head.transposed": torch.arange(12.0).reshape(3, 4).t(),
    "head.brain": torch.ones(3, dtype=torch.bfloat16),
}


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


class Config:
    """Stands for a framework's object."""

    def __init__(self) -> None:
        self.window = 4
        self.names = ["road", "car"]


class Command:
    """A pickle of it runs a command where it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch came-through",)


RUNNING = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "exec")
RUNNING += ("pickle.find_class", "shutil.rmtree", "os.remove", "socket.connect", "os.fork")
CODECS = str(Path(encodings.__file__).parent)
_seen: list[str] = []
_watching = [False]
_hooked: list[bool] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching[0] or not event.startswith(RUNNING):
        return
    # Text in a pickle is decoded by codecs that Python imports when it first needs them.
    code = arguments[0] if event == "exec" and arguments else None
    file = getattr(code, "co_filename", "")
    if not file.startswith(CODECS):
        _seen.append(f"{event} {file}".strip())


@contextmanager
def watch_running() -> Iterator[list[str]]:
    """Events of Python's audit hooks that mean that something ran."""
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _seen.clear()
    _watching[0] = True
    try:
        yield _seen
    finally:
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


@dataclass
class Tally:
    """What became of the damaged files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    largest_peak: int = 0


def read_damaged(count: int, path: Path, *, seed: int) -> Tally:
    """Write and read ``count`` damaged files at ``path``.

    Raises:
        AssertionError: one took too much memory, or gave an error of more than one line; any other
            exception is one that the reader let through.
    """
    rng, kinds = random.Random(seed), seeds()
    tally = Tally()
    tracemalloc.start()
    for _ in range(count):
        content = damage(rng.choice(kinds), rng)
        if rng.random() < 0.3:
            content = splice(content, rng.choice(kinds), rng)
        path.write_bytes(content)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        message = ""
        try:
            found = find_state_dict(read_content(path).value, len(content))
            tally.outcomes["read"] += 1
            assert sum(t.numel() * t.element_size() for t in found.tensors.values()) < 1 << 21
        except (CheckpointError, ValueError) as error:
            tally.outcomes["refused"] += 1
            message = str(error)
        assert "\n" not in message, content
        assert len(message) < 2000, content
        peak = tracemalloc.get_traced_memory()[1] - before
        tally.largest_peak = max(tally.largest_peak, peak)
        assert peak < MOST_FACTOR * len(content) + MOST_CONSTANT, content
    tracemalloc.stop()
    return tally
