"""Kernels of the torch ops for CUDA tensors: the CUDA library, forward only.

Maps are float32 or float16, weights and state float32. Work goes to PyTorch's current stream, so
that a CUDA graph captures it. Where the library is missing, and for other types, the references
serve.
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
from streamseg.plugins import device
from streamseg.plugins.table import CAUSAL_CONV, SELECTIVE_SCAN, UPSAMPLE_ARGMAX, Operator

_log = logging.getLogger(__name__)
_MAPS = (torch.float32, torch.float16)


@functools.cache
def find_cuda() -> device.DeviceOps | None:
    """The library's operators; None, logged once, where it is missing."""
    try:
        return device.load_cuda()
    except PluginNotFound as error:
        _log.info("PyTorch runs the reference operators on the GPU: %s", error)
        return None


def current_stream() -> int:
    """Address of PyTorch's stream on the current device."""
    return int(torch.cuda.current_stream().cuda_stream)


class CudaKernels:
    """The operators on CUDA tensors.

    Args:
        find: returns the library's operators, or None where the references serve.
        stream: returns the address of the stream that work goes to.
    """

    def __init__(
        self,
        find: Callable[[], device.DeviceOps | None] = find_cuda,
        stream: Callable[[], int] = current_stream,
    ) -> None:
        self._find = find
        self._stream = stream

    def serves(self, operator: Operator, tensors: Sequence[Tensor]) -> bool:
        """Whether the library takes these: one device, maps of one type, the others float32."""
        places = {tensor.device for tensor in tensors}
        maps = {tensors[i].dtype for i in operator.positions("map")}
        others = {
            tensor.dtype
            for tensor, operand in zip(tensors, operator.inputs, strict=True)
            if operand.role != "map"
        }
        return (
            len(places) == len(maps) == 1
            and maps <= set(_MAPS)
            and others <= {torch.float32}
            and self._find() is not None
        )

    def causal_conv(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See ``windowed_causal_conv_reference``; tensors, then the fields of the geometry."""
        count = len(CAUSAL_CONV.inputs)
        tensors, geometry = arguments[:count], arguments[count:]
        if not self.serves(CAUSAL_CONV, tensors):
            return windowed_causal_conv_reference(*_call(tensors, geometry))
        x, weight = tensors[:2]
        sizes = device.CallSizes(geometry, x.shape[0], x.shape[2], weight.shape[1])
        return self._run(CAUSAL_CONV, self._ops().causal_conv, sizes, tensors)

    def selective_scan(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See ``windowed_selective_scan_reference``; tensors, then the fields of the geometry."""
        count = len(SELECTIVE_SCAN.inputs)
        tensors, geometry = arguments[:count], arguments[count:]
        if not self.serves(SELECTIVE_SCAN, tensors):
            return windowed_selective_scan_reference(*_call(tensors, geometry))
        u, states = tensors[0], tensors[3].shape[1]
        sizes = device.CallSizes(geometry, u.shape[0], u.shape[2], states)
        return self._run(SELECTIVE_SCAN, self._ops().selective_scan, sizes, tensors)

    def upsample_argmax(self, scores: Tensor, height: int, width: int) -> Tensor:
        """See ``upsample_argmax_reference``."""
        if not self.serves(UPSAMPLE_ARGMAX, [scores]):
            return upsample_argmax_reference(scores, height, width)
        dense = scores.contiguous()
        labels = dense.new_empty((dense.shape[0], height, width), dtype=torch.uint8)
        self._ops().upsample_argmax(
            dense.data_ptr(),
            labels.data_ptr(),
            shape=dense.shape,
            size=(height, width),
            half=dense.dtype == torch.float16,
            stream=self._stream(),
        )
        return labels

    def _run(
        self,
        operator: Operator,
        launch: Callable[..., None],
        sizes: device.CallSizes,
        tensors: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Launch a windowed operator: its map comes first, its state last."""
        dense = [tensor.contiguous() for tensor in tensors]
        y, state = torch.empty_like(dense[0]), torch.empty_like(dense[-1])
        addresses = {
            name: tensor.data_ptr()
            for name, tensor in zip(operator.input_names, dense, strict=True)
        }
        launch(
            sizes,
            **addresses,
            y=y.data_ptr(),
            next_state=state.data_ptr(),
            half=y.dtype == torch.float16,
            stream=self._stream(),
        )
        return y, state

    def _ops(self) -> device.DeviceOps:
        found = self._find()
        if found is None:
            raise PluginNotFound(f"the CUDA library is missing. Run: {build_command('cuda')}")
        return found


def _call(tensors: Sequence[Tensor], geometry: Sequence[int]) -> tuple[Any, ...]:
    return (*tensors, WindowGeometry(*geometry))
