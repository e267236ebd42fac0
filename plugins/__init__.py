"""Native operators: the windowed causal convolution and the windowed selective scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamseg.lazy_names import offer

if TYPE_CHECKING:
    from streamseg.plugins.device import DeviceOps, load_cuda
    from streamseg.plugins.loader import (
        find_cuda_library,
        find_library,
        find_ort_cuda_library,
        find_tensorrt_library,
    )
    from streamseg.plugins.native import NativeOps, load

__all__ = [
    "DeviceOps",
    "NativeOps",
    "find_cuda_library",
    "find_library",
    "find_ort_cuda_library",
    "find_tensorrt_library",
    "load",
    "load_cuda",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "DeviceOps": "plugins.device",
        "NativeOps": "plugins.native",
        "find_cuda_library": "plugins.loader",
        "find_library": "plugins.loader",
        "find_ort_cuda_library": "plugins.loader",
        "find_tensorrt_library": "plugins.loader",
        "load": "plugins.native",
        "load_cuda": "plugins.device",
    },
)
