"""Backends: what executes a bundle's graphs, each behind the same small interface."""

from __future__ import annotations

import logging
import os

from streamseg.errors import BackendError
from streamseg.runtime.backends.batched import BatchedExecutable
from streamseg.runtime.backends.gpu import find_gpu
from streamseg.runtime.backends.interface import BackendOptions, Executable
from streamseg.runtime.bundle.bundle import Bundle
from streamseg.runtime.bundle.manifest import Manifest

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "onnxruntime", "openvino", "cuda", "tensorrt", "tensorrt_rtx")
"""Names that ``load_executable`` and ``streamseg.open`` take."""
# Names the CPU backend that ``auto`` takes, for whoever wants the same one everywhere.
CPU_BACKEND = "STREAMSEG_CPU_BACKEND"

__all__ = ["BACKENDS", "BackendOptions", "Executable", "load_executable", "load_streams"]


def load_executable(bundle: Bundle, backend: str, options: BackendOptions) -> Executable:
    """Load a bundle's graphs into a backend.

    Args:
        bundle: from ``read_bundle``.
        backend: ``onnxruntime`` (CPU), ``openvino``, ``cuda`` (ONNX Runtime on a GPU), ``tensorrt``
            (whichever TensorRT is installed), ``tensorrt_rtx``, or ``auto``: TensorRT where there
            are a GPU and engines of this bundle, else on the CPU what the environment variable
            STREAMSEG_CPU_BACKEND names, else the faster of ONNX Runtime and OpenVINO, as measured.
        options: how to load.
    Raises:
        BackendError: an unknown backend, one that is not installed, or a graph that it refuses.
        BundleError: the graphs' names, shapes or types disagree with the manifest.
    """
    executable = _load(bundle, backend, options)
    for caution in executable.cautions:
        logger.warning("%s", caution)
    return executable


def _load(bundle: Bundle, backend: str, options: BackendOptions) -> Executable:
    if backend not in BACKENDS:
        raise BackendError(f"backend '{backend}' is unknown; available: {', '.join(BACKENDS)}")
    if backend == "auto":
        return _load_best(bundle, options)
    if options.engine is not None and not backend.startswith("tensorrt"):
        raise BackendError(f"backend '{backend}' opens no engine; use --backend tensorrt")
    if backend == "openvino":
        from streamseg.runtime.backends.openvino import load_openvino

        return load_openvino(bundle, options)
    if options.device is not None or options.precision is not None:
        raise BackendError(
            f"backend '{backend}' takes neither a device nor a precision; use --backend openvino"
        )
    if backend == "cuda":
        from streamseg.runtime.backends.onnxruntime_cuda import load_onnxruntime_cuda

        return load_onnxruntime_cuda(bundle, options)
    if backend == "onnxruntime":
        from streamseg.runtime.backends.onnxruntime import load_onnxruntime

        return load_onnxruntime(bundle, options)
    from streamseg.runtime.backends.tensorrt import load_tensorrt

    return load_tensorrt(bundle, options, "tensorrt_rtx" if backend == "tensorrt_rtx" else None)


def load_streams(
    bundle: Bundle, backend: str, options: BackendOptions
) -> tuple[Executable, Manifest]:
    """As ``load_executable``, with lanes of single streams where the graph serves several.

    Returns:
        The executable, and the manifest as one stream sees it.
    """
    executable, manifest = load_executable(bundle, backend, options), bundle.manifest
    if manifest.frame.batch == 1:
        if options.batch_wait_ms is not None:
            executable.close()
            raise BackendError(
                f"{bundle.path} serves one stream a step, so that nothing waits: leave out the "
                "waiting time, or export with --batch"
            )
        return executable, manifest
    batched = BatchedExecutable(executable, manifest, options.batch_wait_ms)
    return batched, batched.manifest


def _load_best(bundle: Bundle, options: BackendOptions) -> Executable:
    """A library or the lowering, requested by name, is the CPU's: ``auto`` then means the CPU."""
    if options.engine is not None:
        return _load(bundle, "tensorrt", options)
    plain = options.native is None and options.library is None
    if plain and options.device is None and find_gpu() is not None:
        try:
            return _load(bundle, "tensorrt", options)
        except BackendError as error:
            logger.warning("there is a GPU, and this runs on the CPU: %s", error)
    if options.device is not None:
        return _load(bundle, "openvino", options)
    named = os.environ.get(CPU_BACKEND)
    if named is not None:
        if named not in ("onnxruntime", "openvino"):
            raise BackendError(f"{CPU_BACKEND} is '{named}', expected onnxruntime or openvino")
        return _load(bundle, named, options)
    from streamseg.runtime.backends.fastest import load_fastest

    return load_fastest(bundle, options)
