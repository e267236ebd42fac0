"""Finds the native operator library and proves that it is the one built with this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from streamseg._version import __version__
from streamseg.errors import PluginNotFound
from streamseg.installation import build_command

LIBRARY = "libstreamseg_ops.so"
RECORD = "libstreamseg_ops.json"
CUDA_LIBRARY = "libstreamseg_cuda.so"
ORT_CUDA_LIBRARY = "libstreamseg_ort_cuda.so"
TENSORRT_LIBRARY = "libstreamseg_tensorrt.so"
OPENVINO_LIBRARY = "libstreamseg_openvino.so"


def find_library(path: str | Path | None = None) -> Path:
    """Path of the operator library, checked against the record written at its build.

    Args:
        path: an absolute path to another copy; its record must lie beside it. None looks inside
            the package and nowhere else.
    Raises:
        PluginNotFound: there is no library, its version is not the package's, or its SHA-256 is
            not the one recorded.
    """
    return _find("operator", LIBRARY, path, _next_step)


def find_cuda_library(path: str | Path | None = None) -> Path:
    """Path of the CUDA operator library; as ``find_library``."""
    return _find("CUDA operator", CUDA_LIBRARY, path, _cuda_step)


def find_ort_cuda_library(path: str | Path | None = None) -> Path:
    """Path of the operator library for ONNX Runtime's CUDA provider; as ``find_library``.

    The CUDA operator library, which it loads from beside itself, is checked too.
    """
    return _with_kernels(_find("ONNX Runtime CUDA operator", ORT_CUDA_LIBRARY, path, _cuda_step))


def find_tensorrt_library(path: str | Path | None = None) -> Path:
    """Path of the TensorRT plugin library; as ``find_library``.

    The CUDA operator library, which it loads from beside itself, is checked too.
    """
    return _with_kernels(_find("TensorRT plugin", TENSORRT_LIBRARY, path, _tensorrt_step))


def find_openvino_library(version: str, path: str | Path | None = None) -> Path:
    """Path of the OpenVINO extension; as ``find_library``.

    Args:
        version: of the OpenVINO that will load it, such as ``2026.4.1``.
        path: an absolute path to another copy.
    Raises:
        PluginNotFound: see ``find_library``; or it was compiled for another OpenVINO, whose C++
            interface differs.
    """
    library = _find("OpenVINO extension", OPENVINO_LIBRARY, path, _openvino_step)
    built = _read_record(library.with_suffix(".json")).get("openvino")
    if built != version:
        raise PluginNotFound(
            f"OpenVINO extension '{library}' was compiled for OpenVINO {built}, installed is "
            f"{version}. {_openvino_step()}"
        )
    return library


def find_plugins(native: bool | None, path: Path | None) -> tuple[Path | None, str]:
    """The TensorRT plugin library as wished for, or ``None`` and why there is none.

    Args:
        native: ``True`` or fail, ``False`` never, ``None`` if it is there.
        path: of a library to use instead of the installed one; it must be there.
    Raises:
        PluginNotFound: it is demanded and not there.
    """
    if native is False:
        return None, "not wanted"
    try:
        return find_tensorrt_library(path), ""
    except PluginNotFound as error:
        if native or path is not None:
            raise
        return None, str(error)


def list_files(library: Path) -> tuple[Path, ...]:
    """A library and what it loads from beside itself: what to copy to have it elsewhere."""
    if library.name in (ORT_CUDA_LIBRARY, TENSORRT_LIBRARY):
        return library, library.with_name(CUDA_LIBRARY)
    return (library,)


def _next_step() -> str:
    return (
        "Install CMake 3.22 or newer and a C++17 compiler, then build it with "
        f"'{build_command('native')}'. Without it bundles run by their lowering, more slowly"
    )


def _cuda_step() -> str:
    return (
        "Install the CUDA toolkit (nvcc) and CMake 3.22 or newer, then build it with "
        f"'{build_command('cuda')}'"
    )


def _tensorrt_step() -> str:
    return (
        "Its headers come with TensorRT (NvInferRuntime.h, on Jetson the package libnvinfer-dev). "
        + _cuda_step()
    )


def _openvino_step() -> str:
    return (
        "It is compiled for the OpenVINO that is installed. Install CMake 3.22 or newer and a "
        f"C++17 compiler, then build it with '{build_command('openvino')}'. "
        "Without it bundles run by their lowering, more slowly"
    )


def _with_kernels(library: Path) -> Path:
    find_cuda_library(library.with_name(CUDA_LIBRARY))
    return library


def _find(kind: str, name: str, path: str | Path | None, next_step: Callable[[], str]) -> Path:
    library = Path(__file__).with_name(name) if path is None else Path(path)
    if not library.is_absolute():
        raise PluginNotFound(
            f"{kind} library '{library}': got a relative path, expected an absolute one. "
            f"Pass '{library.absolute()}' if that is the file you mean"
        )
    record = _read_record(library.with_suffix(".json"))
    if not library.is_file():
        reason = record.get("reason", "it was not built")
        raise PluginNotFound(f"{kind} library '{library}' is missing: {reason}. {next_step()}")
    if not record:
        raise PluginNotFound(
            f"{kind} library '{library}' has no record of its build beside it "
            f"({library.stem}.json). {next_step()}"
        )
    if record.get("version") != __version__:
        raise PluginNotFound(
            f"{kind} library '{library}' is of streamseg {record.get('version')}, expected "
            f"{__version__}. {next_step()}"
        )
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    if record.get("sha256") != digest:
        raise PluginNotFound(
            f"{kind} library '{library}' has SHA-256 {digest}, expected {record.get('sha256')} "
            f"from its build: it was changed or damaged. {next_step()}"
        )
    return library


def _read_record(path: Path) -> dict[str, str]:
    """The record beside a library; empty when there is none or it is not readable."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    return {str(key): str(value) for key, value in record.items() if value is not None}
