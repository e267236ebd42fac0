"""Files that are either whole or as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamseg.errors import StreamsegError


@contextmanager
def whole_file(path: Path, failure: type[StreamsegError]) -> Iterator[Path]:
    """Give a path beside ``path`` to write; on success it becomes ``path``, else it vanishes.

    Raises:
        failure: writing ended in an OSError.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise failure(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
