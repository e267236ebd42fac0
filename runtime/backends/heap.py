"""The heap of the C library: freed memory is given back to the system."""

from __future__ import annotations

import contextlib
import ctypes


def trim_heap() -> None:
    """Give freed memory back to the system, where the C library can (glibc).

    Compiling a graph in several threads leaves tens of megabytes in each thread's heap.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
