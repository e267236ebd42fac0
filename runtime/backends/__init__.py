"""Backends: what executes a bundle's graphs, each behind the same small interface."""

from __future__ import annotations

from streamseg.errors import BackendError
from streamseg.runtime.backends.interface import BackendOptions, Executable
from streamseg.runtime.bundle import Bundle

BACKENDS = ("auto", "onnxruntime", "tensorrt", "tensorrt_rtx")

__all__ = ["BACKENDS", "BackendOptions", "Executable", "load_executable"]


def load_executable(bundle: Bundle, backend: str, options: BackendOptions) -> Executable:
    """Load a bundle's graphs into a backend.

    Args:
        bundle: from ``read_bundle``.
        backend: ``onnxruntime`` (CPU), ``tensorrt`` (whichever TensorRT is installed) or
            ``tensorrt_rtx``; ``auto`` takes TensorRT where an engine is named, else ONNX Runtime.
        options: how to load.
    Raises:
        BackendError: an unknown backend, one that is not installed, or a graph that it refuses.
        BundleError: the graphs' names, shapes or types disagree with the manifest.
    """
    if backend not in BACKENDS:
        raise BackendError(f"backend '{backend}' is unknown; there are: {', '.join(BACKENDS)}")
    if backend == "auto" and options.engine is not None:
        backend = "tensorrt"
    if backend.startswith("tensorrt"):
        from streamseg.runtime.backends.tensorrt import load_tensorrt

        return load_tensorrt(bundle, options, "tensorrt_rtx" if backend.endswith("rtx") else None)
    if options.engine is not None:
        raise BackendError(f"backend '{backend}' opens no engine; use --backend tensorrt")
    from streamseg.runtime.backends.onnxruntime import load_onnxruntime

    return load_onnxruntime(bundle, options)
