"""State files: what is written is read back, and nothing else is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamseg
from streamseg.errors import StateMismatch, StreamsegError
from streamseg.runtime.bundle.state import STATE_DTYPES, StateSpec
from streamseg.runtime.session.cuts import THUMBNAIL
from streamseg.runtime.session.snapshots import (
    Position,
    SessionSnapshot,
    content_digest,
    read_snapshot,
    write_snapshot,
)
from tests.runtime.clips import small_disk

MODEL = "a" * 64
TABLE = (
    StateSpec("carry", (1, 2, 3)),
    StateSpec("ring", (2,), "float16", kind="ring", slots=3),
    StateSpec("key", (4,), "uint8", kind="key"),
    StateSpec("given", (2, 2), "int64", "unset", kind="given"),
    StateSpec("count", (1,), "int32"),
)


def sample(seed: int = 0, table: tuple[StateSpec, ...] = TABLE) -> SessionSnapshot:
    random = np.random.default_rng(seed)
    tensors = {
        spec.name: random.integers(
            0, 100, (spec.slots, *spec.shape) if spec.kind == "ring" else spec.shape
        ).astype(spec.dtype)
        for spec in table
    }
    state = streamseg.StateSnapshot(7, tensors, MODEL)
    thumbnail = random.integers(0, 256, (*THUMBNAIL, 3), dtype=np.uint8)
    return SessionSnapshot(
        state, Position(41, 1.64, (1080, 1920)), thumbnail, (1.5, 0.1), (0.04, 0.08)
    )


def equal(one: SessionSnapshot, other: SessionSnapshot) -> bool:
    same = [
        one.state.tensors.keys() == other.state.tensors.keys(),
        all(
            np.array_equal(value, other.state.tensors[name])
            and value.dtype == other.state.tensors[name].dtype
            for name, value in one.state.tensors.items()
        ),
        (one.state.step, one.state.model) == (other.state.step, other.state.model),
        (one.position, one.scores, one.intervals)
        == (other.position, other.scores, other.intervals),
        np.array_equal(one.thumbnail, other.thumbnail),
    ]
    return all(same)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "state"
    path.parent.mkdir()
    write_snapshot(path, sample())
    return path


def test_every_kind_and_dtype_comes_back(tmp_path: Path, file: Path) -> None:
    assert {spec.dtype for spec in TABLE} == set(STATE_DTYPES)
    assert equal(read_snapshot(file, TABLE, MODEL), sample())
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "state"]
    write_snapshot(file, sample(1))
    assert equal(read_snapshot(file, TABLE, MODEL), sample(1))


def test_state_files_are_plain_safetensors(file: Path) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header["__metadata__"]["format"] == "streamseg-state-1"
    assert header["state.ring"]["shape"] == [3, 2]


def test_another_model_and_another_table_are_refused(file: Path) -> None:
    with pytest.raises(StateMismatch, match="is of model"):
        read_snapshot(file, TABLE, "b" * 64)
    with pytest.raises(StateMismatch, match="differ in these tensors: count"):
        read_snapshot(file, TABLE[:-1], MODEL)
    wider = (StateSpec("carry", (1, 2, 4)), *TABLE[1:])
    with pytest.raises(StateMismatch, match=r"'carry' is float32 \[1, 2, 3\], expected"):
        read_snapshot(file, wider, MODEL)


def test_full_disk_leaves_the_older_state(tmp_path: Path) -> None:
    large = (StateSpec("carry", (40_000,)),)
    with small_disk(tmp_path / "disk", 240) as disk:
        write_snapshot(disk / "state", sample(0, large))
        with pytest.raises(StreamsegError, match=r"cannot write .*disk/state: No space left"):
            write_snapshot(disk / "state", sample(1, large))
        assert [path.name for path in disk.iterdir()] == ["state"]
        assert equal(read_snapshot(disk / "state", large, MODEL), sample(0, large))


def outcome(file: Path) -> SessionSnapshot | str:
    """What is read, or the one line that refuses it."""
    try:
        return read_snapshot(file, TABLE, MODEL)
    except StateMismatch as error:
        return str(error)


def refused(file: Path, content: bytes) -> None:
    """It is read as it was written, or refused; nothing but this file is touched."""
    file.write_bytes(content)
    read = outcome(file)
    if isinstance(read, str):
        assert read.isprintable()
    else:
        assert equal(read, sample())
    assert list(file.parent.parent.rglob("*")) == [file.parent, file]


FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
def test_bytes_changed_anywhere_are_refused(file: Path, data: st.DataObject) -> None:
    write_snapshot(file, sample())
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(content)))
    refused(file, bytes(content[:cut] if data.draw(st.booleans()) else content))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["9" * 5000, "nan", "-1", "../../x", "0x10", "1e400", "F32", "BF16"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@FUZZ
@given(data=st.data())
def test_any_value_anywhere_in_the_header_is_refused(file: Path, data: st.DataObject) -> None:
    write_snapshot(file, sample())
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entry = data.draw(st.sampled_from(sorted(header)))
    field = data.draw(st.sampled_from([None, *sorted(header[entry])]))
    value = data.draw(VALUES)
    if field is None:
        header[entry] = value
    else:
        header[entry][field] = value
    changed = json.dumps(header).encode()
    refused(file, len(changed).to_bytes(8, "little") + changed + content[8 + length :])


FIELDS = ("format", "model", "step", "index", "timestamp", "size", "sha256")


@FUZZ
@given(
    name=st.sampled_from(FIELDS), value=st.text(max_size=12) | st.sampled_from(["nan", "9" * 5000])
)
def test_fields_that_lie_under_a_right_digest_are_refused(
    file: Path, name: str, value: str
) -> None:
    """Whoever can compute a digest still cannot break the reader."""
    from safetensors.numpy import load, save

    write_snapshot(file, sample())
    tensors = load(file.read_bytes())
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    fields = {**json.loads(content[8 : 8 + length])["__metadata__"], name: value}
    if name != "sha256":
        fields["sha256"] = content_digest(fields, tensors)
    file.write_bytes(save(tensors, fields))
    read = outcome(file)
    if isinstance(read, str):
        assert read.isprintable()
    else:
        assert name in ("step", "index", "timestamp", "size")
        assert read.state.step >= 0
        assert np.isfinite(read.position.timestamp)
