"""A stream belongs to one thread at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from streamseg.errors import StreamsegError


class ThreadGuard:
    """Admits one thread at a time; a second one gets an error instead of waiting."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Enter, also again in the same thread.

        Raises:
            StreamsegError: another thread is inside.
        """
        if not self._lock.acquire(blocking=False):
            raise StreamsegError(
                "another thread is using this stream; give each thread a stream of its own "
                "(Stream.sibling)"
            )
        try:
            yield
        finally:
            self._lock.release()

    def wait(self) -> contextlib.AbstractContextManager[bool]:
        """Enter after the thread that is inside has left."""
        return self._lock
