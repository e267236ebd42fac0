"""Kernels of the torch ops for CPU tensors: the native library, forward and backward.

float32 runs at full speed; float64 runs in plain C++, for checking gradients. Where the library is
missing, and for other types, the references serve.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from streamseg.errors import PluginNotFound
from streamseg.export.ops_reference import (
    upsample_argmax_reference,
    windowed_causal_conv_reference,
    windowed_selective_scan_reference,
)
from streamseg.export.windows import WindowGeometry
from streamseg.installation import build_command
from streamseg.plugins import native
from streamseg.plugins.table import CAUSAL_CONV, SELECTIVE_SCAN

_log = logging.getLogger(__name__)
_CONV_INPUTS, _SCAN_INPUTS = len(CAUSAL_CONV.inputs), len(SELECTIVE_SCAN.inputs)


@functools.cache
def find_native() -> native.NativeOps | None:
    """The library's operators; None, logged once, where it is missing."""
    try:
        return native.load()
    except PluginNotFound as error:
        _log.info("PyTorch runs the reference operators: %s", error)
        return None


class NativeKernels:
    """The operators on CPU tensors.

    Args:
        find: returns the library's operators, or None where the references serve.
    """

    def __init__(self, find: Callable[[], native.NativeOps | None] = find_native) -> None:
        self._find = find

    def serves(self, *tensors: Tensor) -> bool:
        """Whether the library takes these: on the CPU, all float32 or all float64."""
        kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
        known = kinds <= {("cpu", torch.float32)} or kinds <= {("cpu", torch.float64)}
        return known and self._find() is not None

    def causal_conv(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See ``windowed_causal_conv_reference``; tensors, then the fields of the geometry."""
        tensors, geometry = arguments[:_CONV_INPUTS], arguments[_CONV_INPUTS:]
        if not self.serves(*tensors):
            return windowed_causal_conv_reference(*_call(tensors, geometry))
        y, state = self._ops().causal_conv(*_arrays(tensors), **_options(geometry))
        return torch.from_numpy(y), torch.from_numpy(state)

    def selective_scan(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See ``windowed_selective_scan_reference``; tensors, then the fields of the geometry."""
        tensors, geometry = arguments[:_SCAN_INPUTS], arguments[_SCAN_INPUTS:]
        if not self.serves(*tensors):
            return windowed_selective_scan_reference(*_call(tensors, geometry))
        y, state = self._ops().selective_scan(*_arrays(tensors), **_options(geometry))
        return torch.from_numpy(y), torch.from_numpy(state)

    def upsample_argmax(self, scores: Tensor, height: int, width: int) -> Tensor:
        """See ``upsample_argmax_reference``."""
        if scores.dtype != torch.float32 or not self.serves(scores):
            return upsample_argmax_reference(scores, height, width)
        (array,) = _arrays([scores])
        threads = torch.get_num_threads()
        return torch.from_numpy(self._ops().upsample_argmax(array, height, width, threads=threads))

    def causal_conv_backward(
        self, tensors: Sequence[Tensor], gradients: Sequence[Tensor], geometry: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Gradients of the inputs of ``causal_conv`` from those of its outputs."""
        run = self._ops().causal_conv_backward
        found = run(_arrays(tensors), *_arrays(gradients), **_options(geometry))
        return tuple(torch.from_numpy(array) for array in found)

    def selective_scan_backward(
        self, tensors: Sequence[Tensor], gradients: Sequence[Tensor], geometry: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Gradients of the inputs of ``selective_scan`` from those of its outputs."""
        run = self._ops().selective_scan_backward
        found = run(_arrays(tensors), *_arrays(gradients), **_options(geometry))
        return tuple(torch.from_numpy(array) for array in found)

    def _ops(self) -> native.NativeOps:
        found = self._find()
        if found is None:
            raise PluginNotFound(f"the native library is missing. Run: {build_command('native')}")
        return found


def _arrays(tensors: Sequence[Tensor]) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


def _options(geometry: Sequence[int]) -> dict[str, Any]:
    return {"geometry": tuple(geometry), "threads": torch.get_num_threads()}


def _call(tensors: Sequence[Tensor], geometry: Sequence[int]) -> tuple[Any, ...]:
    return (*tensors, WindowGeometry(*geometry))
