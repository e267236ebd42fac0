"""Backends: what executes a bundle's graphs, each behind the same small interface."""

from __future__ import annotations

from streamseg.errors import BackendError
from streamseg.runtime.backends.interface import BackendOptions, Executable
from streamseg.runtime.bundle import Bundle

BACKENDS = ("auto", "onnxruntime")

__all__ = ["BACKENDS", "BackendOptions", "Executable", "load_executable"]


def load_executable(bundle: Bundle, backend: str, options: BackendOptions) -> Executable:
    """Load a bundle's graphs into a backend; ``auto`` takes the best that this machine has.

    Raises:
        BackendError: an unknown backend, one that is not installed, or a graph that it refuses.
        BundleError: the graphs' names, shapes or types disagree with the manifest.
    """
    if backend not in BACKENDS:
        raise BackendError(f"backend '{backend}' is unknown; there are: {', '.join(BACKENDS)}")
    from streamseg.runtime.backends.onnxruntime import load_onnxruntime

    return load_onnxruntime(bundle, options)
