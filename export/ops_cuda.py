"""The operators on PyTorch's CUDA tensors by the CUDA library, forward only.

Maps are float32 or float16, weights and state float32. Work goes to PyTorch's current stream, so
that a CUDA graph captures it. Where the library is missing, the references in ``ops`` serve.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import astuple

import torch
from torch import Tensor

from streamseg.errors import PluginNotFound
from streamseg.export.windows import WindowGeometry
from streamseg.plugins import device

_log = logging.getLogger(__name__)

_MAPS = (torch.float32, torch.float16)
# Tests and the benchmark's rehearsal put the kernels' twin on the CPU in the library's place.
DEVICE = "cuda"


@functools.cache
def find_cuda() -> device.DeviceOps | None:
    """The library's operators; None, said once in the log, where it is not there."""
    try:
        return device.load_cuda()
    except PluginNotFound as error:
        _log.info("PyTorch runs the reference operators on the GPU: %s", error)
        return None


def serves(maps: Sequence[Tensor], parameters: Sequence[Tensor] = ()) -> bool:
    """Whether the library takes these: all on the GPU, maps of one type, parameters float32."""
    tensors = (*maps, *parameters)
    return (
        all(tensor.device.type == DEVICE for tensor in tensors)
        and maps[0].dtype in _MAPS
        and all(tensor.dtype == maps[0].dtype for tensor in maps)
        and all(tensor.dtype == torch.float32 for tensor in parameters)
        and find_cuda() is not None
    )


def causal_conv(tensors: Sequence[Tensor], geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """See ``ops.windowed_causal_conv_reference``, whose arguments these are."""
    x, weight, bias, state = (tensor.contiguous() for tensor in tensors)
    y, next_state = torch.empty_like(x), torch.empty_like(state)
    _ops().causal_conv(
        device.Sizes(astuple(geometry), x.shape[0], x.shape[2], weight.shape[1]),
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        state=state.data_ptr(),
        y=y.data_ptr(),
        next_state=next_state.data_ptr(),
        half=x.dtype == torch.float16,
        stream=_stream(),
    )
    return y, next_state


def selective_scan(tensors: Sequence[Tensor], geometry: WindowGeometry) -> tuple[Tensor, Tensor]:
    """See ``ops.windowed_selective_scan_reference``, whose arguments these are."""
    u, dt, dt_bias, A, B, C, skip, z, state = (  # noqa: N806
        tensor.contiguous() for tensor in tensors
    )
    y, next_state = torch.empty_like(u), torch.empty_like(state)
    _ops().selective_scan(
        device.Sizes(astuple(geometry), u.shape[0], u.shape[2], A.shape[1]),
        u=u.data_ptr(),
        dt=dt.data_ptr(),
        dt_bias=dt_bias.data_ptr(),
        A=A.data_ptr(),
        B=B.data_ptr(),
        C=C.data_ptr(),
        skip=skip.data_ptr(),
        z=z.data_ptr(),
        state=state.data_ptr(),
        y=y.data_ptr(),
        next_state=next_state.data_ptr(),
        half=u.dtype == torch.float16,
        stream=_stream(),
    )
    return y, next_state


def upsample_argmax(scores: Tensor, height: int, width: int) -> Tensor:
    """See ``ops.upsample_argmax_reference``."""
    dense = scores.contiguous()
    labels = dense.new_empty((dense.shape[0], height, width), dtype=torch.uint8)
    _ops().upsample_argmax(
        dense.data_ptr(),
        labels.data_ptr(),
        shape=dense.shape,
        size=(height, width),
        half=dense.dtype == torch.float16,
        stream=_stream(),
    )
    return labels


def _ops() -> device.DeviceOps:
    found = find_cuda()
    if found is None:
        raise PluginNotFound("the CUDA operators were called without `serves` being asked first")
    return found


def _stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream) if DEVICE == "cuda" else 0
