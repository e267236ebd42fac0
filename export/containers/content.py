"""What a file holds, by its first bytes and never by its name."""

from __future__ import annotations

import json
import mmap
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from safetensors import SafetensorError, safe_open

from streamseg.errors import CheckpointError
from streamseg.export.containers.torch_files import (
    MalformedFile,
    read_torch_legacy,
    read_torch_zip,
)

_PROTOCOLS = b"\x02\x03\x04\x05"
# Pickles of protocol 0 and 1 begin with what a dictionary, a list or a name begins with.
_OLD_PICKLES = (b"(d", b"(l", b"}q", b"]q", b"c")
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras); only PyTorch's weights can be read"),
    (b"GGUF", "a GGUF file of a language model"),
    (b"\x93NUMPY", "one numpy array without names"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
)
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/")
_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|\?xml|error)", re.IGNORECASE)
_TAR_MAGIC = slice(257, 262)


class Pages(mmap.mmap):
    """A file in memory, copied on write: tensors share the pages, and the file stays as it is.

    Reads end where the file ends, whatever length a damaged file asks for; a buffered file would
    take that much memory first.
    """

    def seekable(self) -> bool:
        """As zipfile asks."""
        return True


@dataclass(frozen=True)
class FileContent:
    """What a file gave: a value with records or tensors in it, and text that came beside."""

    value: Any
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_content(path: Path) -> FileContent:
    """Read any file that weights come in.

    Raises:
        CheckpointError: not such a file, damaged or truncated; the message says what it is.
    """
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            # Of escapes in a damaged pickle's text.
            warnings.simplefilter("ignore")
            size = path.stat().st_size
            head = file.read(4096)
            if not head:
                raise MalformedFile("empty (0 bytes); the download failed or was truncated")
            if _is_safetensors(head, size):
                return _read_safetensors(path)
            _refuse_others(head)
            pages = Pages(file.fileno(), 0, access=mmap.ACCESS_COPY)
            read = read_torch_zip if head.startswith(b"PK\x03\x04") else read_torch_legacy
            return FileContent(read(memoryview(pages), cast("IO[bytes]", pages)))
    except MalformedFile as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({path.stat().st_size} bytes): {error}"
        ) from None
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def _is_safetensors(head: bytes, size: int) -> bool:
    """The length of a JSON header comes first, eight bytes, then the header."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size


def _read_safetensors(path: Path) -> FileContent:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return FileContent(tensors, file.metadata() or {})
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or ["?"])[0][:160]
        raise MalformedFile(
            f"its safetensors header is damaged or it is truncated: {reason}"
        ) from None


def _refuse_others(head: bytes) -> None:
    if _POINTER.match(head):
        raise MalformedFile("this is a Git LFS pointer, not the weights; run git lfs pull")
    if _PAGE.match(head):
        raise MalformedFile("this is a web page, not the weights; the download gave an error page")
    for mark, what in _OTHERS:
        if head.startswith(mark):
            raise MalformedFile(f"it is {what}")
    if head[_TAR_MAGIC] == b"ustar":
        raise MalformedFile("it is a tar archive; unpack it first")
    if head.lstrip()[:1] in (b"{", b"[") and _is_text(head):
        raise MalformedFile("it is JSON text; give the weights or the folder that holds both")
    pickled = head[0] == 0x80 and head[1:2] and head[1:2] in _PROTOCOLS
    if not pickled and not head.startswith((b"PK\x03\x04", *_OLD_PICKLES)):
        raise MalformedFile("neither safetensors nor a file of torch.save or pickle")


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object beside the weights; empty where there is no such file.

    Raises:
        CheckpointError: unreadable, or not an object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, expected a JSON object")
    return found
