"""How to build engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamseg.destinations import FILE
from streamseg.errors import ExportError
from streamseg.option_fields import check_options, option, precision_option
from streamseg.runtime.backends.engine_files import FLAVOURS
from streamseg.runtime.backends.interface import native_option

ENGINE_PRECISIONS = ("fp32", "fp16", "int8")
Progress = Callable[[str, int, int], bool]


@dataclass(frozen=True)
class EngineOptions:
    """How to build.

    Attributes:
        flavour: ``tensorrt``, ``tensorrt_rtx``, or ``None`` for the one that is installed.
        native: our plugins: ``True`` or fail, ``False`` never (the lowering is built), ``None`` if
            their library is there.
        library: absolute path of a plugin library instead of the installed one.
        workspace: most device memory of one layer's scratch space, MiB; ``None`` for no limit.
        capabilities: for RTX, compute capabilities to build for, such as ``8.6``; empty for
            this machine's.
        timing_cache: file to start from and to keep; not for RTX, where it has no effect.
        progress: called with phase, step and number of steps; ``False`` stops the build.
        precision: ``fp16`` has what is float32 in the bundle's graphs converted, except the state
            and the other islands of ``half_graph``; ``None`` or the bundle's own builds them as
            they are.
        tf32: let float32 products round their inputs to TF32, TensorRT's default.
        unverified: keep engines that fail the comparison with ONNX Runtime, or cannot be compared.
        clip: frames to compare on; ``None`` draws a street.
        clip_name: what the frames are, for the sidecar.
        board: state of the machine, for the sidecar.

    Raises:
        ExportError: a value is out of its range.
    """

    flavour: str | None = option(
        "Which TensorRT.", default=None, choices=FLAVOURS, unset="the installed one"
    )
    native: bool | None = native_option()
    library: Path | None = option(
        "Library of native operators, an absolute path.", default=None, unset="the installed one"
    )
    workspace: int | None = option(
        "Limit of scratch memory, in MiB.", default=None, low=1, unset="no limit"
    )
    capabilities: tuple[str, ...] = option(
        "Compute capability to build for (TensorRT-RTX only); may be repeated.",
        default=(),
        flag="capability",
    )
    timing_cache: Path | None = option("Timing cache file.", default=None, written=FILE)
    progress: Progress | None = None
    precision: str | None = precision_option(
        default=None, unset="the bundle's", choices=ENGINE_PRECISIONS, common=True
    )
    tf32: bool = option("Let float32 products round their inputs to TF32.", default=False)
    unverified: bool = option("Keep engines that fail the comparison.", default=False)
    clip: Sequence[NDArray[np.uint8]] | None = None
    clip_name: str = "a given clip"
    board: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self, ExportError)
