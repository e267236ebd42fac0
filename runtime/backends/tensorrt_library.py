"""TensorRT and TensorRT-RTX as installed: the module, its log, our plugins."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import logging
from pathlib import Path
from typing import Any

from streamseg.errors import BackendError
from streamseg.runtime.backends.engine_files import FLAVOURS

logger = logging.getLogger(__name__)

OLDEST = (10, 0)
# TensorRT-RTX loads its plugin support by a name that its wheel does not contain.
RTX_LIBRARY = "libtensorrt_rtx.so"
PLUGIN = ("WindowedSelectiveScan", "1", "streamseg")
# SHA-256 of the plugin library that this process loaded, per flavour: registries last as long.
_loaded: dict[str, str] = {}


def import_tensorrt(flavour: str | None = None) -> tuple[str, Any]:
    """The installed TensorRT: its flavour and module.

    Raises:
        BackendError: TensorRT is missing, the one requested is missing, or it is older than 10.0.
    """
    wanted = FLAVOURS if flavour is None else (flavour,)
    reasons = []
    for name in wanted:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
            continue
        version = tuple(int(part) for part in module.__version__.split(".")[:2])
        if name == "tensorrt" and version < OLDEST:
            raise BackendError(
                f"TensorRT is {module.__version__}, expected 10.0 or newer (JetPack 6.1 or newer)"
            )
        return name, module
    raise BackendError(f"TensorRT is not installed ({'; '.join(reasons)}). Run: streamseg doctor")


def load_plugins(trt: Any, flavour: str, library: Path) -> None:
    """Load our plugin library into TensorRT's registry, once a process.

    Args:
        trt: TensorRT's module.
        flavour: which one it is.
        library: absolute path, from ``find_tensorrt_library``.
    Raises:
        BackendError: TensorRT does not load it, or the process has loaded another build.
    """
    registry = trt.get_plugin_registry()
    if registry.get_creator(*PLUGIN) is not None:
        _check_same_build(flavour, library)
        return
    if flavour == "tensorrt_rtx":
        try:
            ctypes.CDLL(RTX_LIBRARY)
        except OSError:
            # Without this the process would abort on the first plugin node.
            raise BackendError(
                f"TensorRT-RTX looks for its plugins' support under the name {RTX_LIBRARY}, which "
                f"its wheel lacks. Make a folder with a link {RTX_LIBRARY} to the wheel's "
                f"tensorrt_rtx_libs/{RTX_LIBRARY}.1, and start again with that folder in "
                "LD_LIBRARY_PATH"
            ) from None
    if registry.load_library(str(library)) is None:
        raise BackendError(f"TensorRT {trt.__version__} does not load plugin library {library}")
    _loaded[flavour] = hash_library(library)


def _check_same_build(flavour: str, library: Path) -> None:
    loaded = _loaded.get(flavour)
    if loaded is None:
        logger.warning(
            "streamseg's plugins are in TensorRT's registry already, loaded by other code: whether "
            "they are those of %s cannot be checked",
            library,
        )
    elif loaded != hash_library(library):
        raise BackendError(
            f"this process has loaded another build of streamseg's plugins than {library}, and "
            "TensorRT keeps one. Start a new process"
        )


def hash_library(library: Path) -> str:
    """SHA-256 of a plugin library, as engine records hold it."""
    return hashlib.sha256(library.read_bytes()).hexdigest()


def make_log(trt: Any) -> Any:
    """A TensorRT logger that passes on to ``logging`` and keeps the last error as ``reason``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        """The method's name and arguments are TensorRT's."""

        def __init__(self) -> None:
            super().__init__()
            self.reason = "it gives no reason"

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.reason = text.strip()
                logger.error("%s", text)
            elif severity == trt.ILogger.WARNING:
                logger.warning("%s", text)
            else:
                logger.debug("%s", text)

    return Log()
