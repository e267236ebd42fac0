"""Compiled OpenVINO graphs that are kept between starts, each with what it was made from.

A file is the SHA-256 of what follows it, and OpenVINO's own form of the compiled graph. Its name is
the hash of the graph, OpenVINO, extension, device and properties that it was compiled with: a
change of any of them leads to another file, and a damaged one is ignored with a warning.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import astuple, dataclass
from pathlib import Path

from streamseg.errors import BackendError
from streamseg.files import make_folder, whole_file

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class CompiledKey:
    """What a compiled graph was made from; digests are hexadecimal."""

    graph_sha256: str
    openvino: str
    library_sha256: str
    device: str
    config: str

    @property
    def path(self) -> Path:
        """Where it is kept: ``$XDG_CACHE_HOME/streamseg/openvino/<hash>.blob``."""
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        name = hashlib.sha256("\n".join(astuple(self)).encode()).hexdigest()[:32]
        return Path(base) / "streamseg" / "openvino" / f"{name}.blob"


def read_compiled(key: CompiledKey) -> bytes | None:
    """The compiled graph, or ``None`` where there is none or it is damaged."""
    try:
        content = key.path.read_bytes()
    except OSError:
        return None
    kept, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != kept:
        logger.warning(
            "%s is damaged; the graph is compiled again. Run: streamseg build BUNDLE "
            "--backend openvino",
            key.path,
        )
        return None
    return body


def write_compiled(key: CompiledKey, body: bytes) -> Path:
    """Keep a compiled graph; the file is complete or unchanged.

    Raises:
        BackendError: it cannot be written.
    """
    make_folder(key.path.parent, BackendError)
    with whole_file(key.path, BackendError) as draft:
        draft.write_bytes(hashlib.sha256(body).digest() + body)
    return key.path
