"""The operators on PyTorch's CPU tensors by the native library, forward and backward.

float32 runs at full speed; float64 runs in plain C++, for checking gradients. Where the library is
missing, and for other devices and dtypes, the references in ``ops`` serve.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from streamseg.errors import PluginNotFound
from streamseg.export.windows import WindowGeometry
from streamseg.plugins import native

_log = logging.getLogger(__name__)


@functools.cache
def find_native() -> native.NativeOps | None:
    """The library's operators; None, said once in the log, where it is not there."""
    try:
        return native.load()
    except PluginNotFound as error:
        _log.info("PyTorch runs the reference operators: %s", error)
        return None


def serves(*tensors: Tensor) -> bool:
    """Whether the native library takes these tensors: on the CPU, all float32 or all float64."""
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    known = kinds <= {("cpu", torch.float32)} or kinds <= {("cpu", torch.float64)}
    return known and find_native() is not None


def causal_conv(tensors: Sequence[Tensor], geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """See ``ops.windowed_causal_conv_reference``, whose arguments these are."""
    y, state = _ops().causal_conv(*_arrays(tensors), **_options(geometry))
    return torch.from_numpy(y), torch.from_numpy(state)


def causal_conv_backward(
    tensors: Sequence[Tensor], gradients: Sequence[Tensor], geometry: WindowGeometry
) -> tuple[Tensor, ...]:
    """Gradients of the inputs of ``causal_conv`` from those of its outputs."""
    found = _ops().causal_conv_backward(_arrays(tensors), *_arrays(gradients), **_options(geometry))
    return tuple(torch.from_numpy(array) for array in found)


def selective_scan(tensors: Sequence[Tensor], geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """See ``ops.windowed_selective_scan_reference``, whose arguments these are."""
    y, state = _ops().selective_scan(*_arrays(tensors), **_options(geometry))
    return torch.from_numpy(y), torch.from_numpy(state)


def selective_scan_backward(
    tensors: Sequence[Tensor], gradients: Sequence[Tensor], geometry: WindowGeometry
) -> tuple[Tensor, ...]:
    """Gradients of the inputs of ``selective_scan`` from those of its outputs."""
    found = _ops().selective_scan_backward(
        _arrays(tensors), *_arrays(gradients), **_options(geometry)
    )
    return tuple(torch.from_numpy(array) for array in found)


def upsample_argmax(scores: Tensor, height: int, width: int) -> Tensor:
    """See ``ops.upsample_argmax_reference``."""
    (array,) = _arrays([scores])
    labels = _ops().upsample_argmax(array, height, width, threads=torch.get_num_threads())
    return torch.from_numpy(labels)


def _ops() -> native.NativeOps:
    found = find_native()
    if found is None:
        raise PluginNotFound("the native operators were called without `serves` being asked first")
    return found


def _arrays(tensors: Sequence[Tensor]) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


def _options(geometry: WindowGeometry) -> dict[str, Any]:
    return {"geometry": astuple(geometry), "threads": torch.get_num_threads()}
