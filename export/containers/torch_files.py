"""What ``torch.save`` writes, now (a zip archive) and before 2020 (pickles and raw blocks)."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import IO, Any

from streamseg.export.containers.pickle_machine import (
    NOT_PICKLES,
    Constructors,
    PickleMachine,
)
from streamseg.export.containers.tensor_records import (
    CONSTRUCTORS,
    StorageRecord,
    storage_record,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MOST_INFLATION = 16
"""A compressed archive may unpack to this many times the file's size."""
_LOCAL_HEADER = 30
_NOT_ZIPS: tuple[type[Exception], ...] = (
    *NOT_PICKLES,
    *(zipfile.BadZipFile, OSError, EOFError, struct.error, zlib.error),
    *(NotImplementedError, RuntimeError),
)


class MalformedFile(ValueError):
    """A file is not what it looks like; the message says why."""


def read_torch_zip(view: memoryview, file: IO[bytes]) -> Any:
    """The value of a zip archive of ``torch.save``; ``view`` has the same bytes as ``file``.

    Raises:
        MalformedFile: truncated, damaged, or an archive of something else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
        return _Archive(view, entries).load()
    except MalformedFile:
        raise
    except RecursionError:
        raise MalformedFile("it is nested too deeply") from None
    except _NOT_ZIPS as error:
        raise MalformedFile(f"the archive is damaged or truncated: {_short(error)}") from None


class _Archive:
    def __init__(self, view: memoryview, entries: dict[str, zipfile.ZipInfo]) -> None:
        self._view = view
        self._entries = entries
        self._budget = MOST_INFLATION * len(view)
        self._blocks: dict[str, memoryview] = {}
        pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            listed = ", ".join(sorted(entries)[:3]) or "nothing"
            raise MalformedFile(f"a zip archive, but not of torch.save; it holds {listed}")
        self._root = pickles[0].removesuffix("data.pkl")

    def load(self) -> Any:
        if any(name.startswith(self._root + "code/") for name in self._entries):
            raise MalformedFile(
                "a TorchScript program; save its weights with torch.save(model.state_dict(), ...)"
            )
        order = self._entries.get(self._root + "byteorder")
        if order is not None and bytes(self._read(order)).strip() == b"big":
            raise MalformedFile("its numbers are big-endian; save it again on this machine")
        data = self._read(self._entries[self._root + "data.pkl"])
        return PickleMachine(constructors(), len(self._view), self._storage).run(io.BytesIO(data))

    def _storage(self, identity: Any) -> StorageRecord:
        key, record = storage_record(identity)
        name = f"{self._root}data/{key}"
        if name not in self._blocks:
            entry = self._entries.get(name)
            if entry is None:
                raise MalformedFile(f"it has no entry {name[:80]!r}")
            self._blocks[name] = self._read(entry)
        record.data = self._blocks[name]
        if record.nbytes > len(record.data):
            raise MalformedFile(
                f"entry {name[:80]!r} has {len(record.data)} bytes, {record.nbytes} are declared"
            )
        return record

    def _read(self, entry: zipfile.ZipInfo) -> memoryview:
        """The bytes of an entry: a view of the file, or unpacked within the budget."""
        header = bytes(self._view[entry.header_offset : entry.header_offset + _LOCAL_HEADER])
        if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04" or entry.flag_bits & 1:
            raise MalformedFile("an entry of the archive is damaged or encrypted")
        names = sum(struct.unpack("<HH", header[26:30]))
        start = entry.header_offset + _LOCAL_HEADER + names
        data = self._view[start : start + entry.compress_size]
        if len(data) < entry.compress_size:
            raise MalformedFile("the archive is truncated")
        if entry.compress_type == zipfile.ZIP_STORED:
            return data
        self._budget -= entry.file_size
        if entry.compress_type != zipfile.ZIP_DEFLATED or self._budget < 0:
            raise MalformedFile(
                f"it is compressed more than {MOST_INFLATION} times or in an unknown way"
            )
        return memoryview(bytearray(zlib.decompressobj(-15).decompress(data, entry.file_size or 1)))


def read_torch_legacy(view: memoryview, file: IO[bytes]) -> Any:
    """The value of a file of ``torch.save`` before version 1.6, or of a plain pickle.

    Raises:
        MalformedFile: truncated, damaged, or something else.
    """
    try:
        value = PickleMachine(constructors(), len(view)).run(file)
        return _legacy_content(view, file, constructors()) if value == LEGACY_MAGIC else value
    except MalformedFile:
        raise
    except RecursionError:
        raise MalformedFile("it is nested too deeply") from None
    except NOT_PICKLES as error:
        raise MalformedFile(f"the pickle is damaged or truncated: {_short(error)}") from None


def _legacy_content(view: memoryview, file: IO[bytes], table: Constructors) -> Any:
    """Protocol, system, content, keys of the storages, and behind them the blocks in that order."""
    records: dict[str, list[StorageRecord]] = {}

    def persistent(identity: Any) -> Any:
        if isinstance(identity, tuple) and len(identity) > 1 and identity[0] == "module":
            return identity[1]
        key, record = storage_record(identity)
        shared = identity[5] if len(identity) > 5 else None
        if isinstance(shared, tuple) and isinstance(shared[1], int) and shared[1] >= 0:
            record.offset = shared[1]
        records.setdefault(key, []).append(record)
        return record

    machine = PickleMachine(table, len(view), persistent)
    machine.run(file), machine.run(file)
    content = machine.run(file)
    keys = machine.run(file)
    place = file.tell()
    for key in keys if isinstance(keys, list) else []:
        found = records.get(str(key) if isinstance(key, (str, int)) else "", [])
        if len(view) - place < 8:
            raise MalformedFile("the file is truncated")
        count = int.from_bytes(view[place : place + 8], "little")
        width = found[0].dtype.itemsize if found else 1
        block = view[place + 8 : place + 8 + count * width]
        if len(block) < count * width:
            raise MalformedFile("the file is truncated")
        for record in found:
            record.data = block
        place += 8 + count * width
    return content


def constructors() -> Constructors:
    """The table of names that give values; a storage may be a whole file of its own."""
    return {**CONSTRUCTORS, "torch.storage._load_from_bytes": _nested}


def _nested(data: Any) -> Any:
    """What ``pickle.dump`` of a tensor stores in place of the storage: a file, one level deep."""
    if not isinstance(data, bytes):
        raise ValueError("a storage is not made of bytes")
    file = io.BytesIO(data)
    if PickleMachine({}, 0).run(file) != LEGACY_MAGIC:
        raise ValueError("a storage has an unknown format")
    return _legacy_content(memoryview(data), file, CONSTRUCTORS)


def _short(error: Exception) -> str:
    """The first line of an error, without control characters."""
    lines = str(error).splitlines() or [type(error).__name__]
    return "".join(c if c.isprintable() else "?" for c in lines[0])[:120]
