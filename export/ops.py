"""The operators of a step as ``torch.library`` ops, with kernels for the CPU and for CUDA.

Glossary and semantics: ``streamseg.export.ops_reference``. The references serve every device and
type that no kernel takes.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from streamseg.export.ops_cuda import CudaKernels
from streamseg.export.ops_native import NativeKernels
from streamseg.export.ops_reference import (
    upsample_argmax_reference,
    windowed_causal_conv_reference,
    windowed_selective_scan_reference,
)
from streamseg.export.windows import WindowGeometry

__all__ = [
    "Kernels",
    "register_kernels",
    "upsample_argmax",
    "upsample_argmax_reference",
    "windowed_causal_conv",
    "windowed_causal_conv_reference",
    "windowed_selective_scan",
    "windowed_selective_scan_reference",
]

_NATIVE = NativeKernels()


@torch.library.custom_op("streamseg::windowed_causal_conv", mutates_args=())
def windowed_causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor,
    map_h: int,
    map_w: int,
    window_h: int,
    window_w: int,
    offset_h: int,
    offset_w: int,
) -> tuple[Tensor, Tensor]:
    """See ``windowed_causal_conv_reference``; the integers are the fields of WindowGeometry."""
    geometry = WindowGeometry(map_h, map_w, window_h, window_w, offset_h, offset_w)
    return windowed_causal_conv_reference(x, weight, bias, state, geometry)


@torch.library.custom_op("streamseg::windowed_selective_scan", mutates_args=())
def windowed_selective_scan(
    u: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    skip: Tensor,
    z: Tensor,
    state: Tensor,
    map_h: int,
    map_w: int,
    window_h: int,
    window_w: int,
    offset_h: int,
    offset_w: int,
) -> tuple[Tensor, Tensor]:
    """See ``windowed_selective_scan_reference``; the integers are the fields of WindowGeometry."""
    geometry = WindowGeometry(map_h, map_w, window_h, window_w, offset_h, offset_w)
    return windowed_selective_scan_reference(u, dt, dt_bias, A, B, C, skip, z, state, geometry)


@torch.library.custom_op("streamseg::upsample_argmax", mutates_args=())
def upsample_argmax(scores: Tensor, height: int, width: int) -> Tensor:
    """See ``upsample_argmax_reference``."""
    return upsample_argmax_reference(scores, height, width)


@windowed_causal_conv.register_fake
def _conv_shapes(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, *_: int) -> Any:  # noqa: ARG001
    return torch.empty_like(x), torch.empty_like(state)


@windowed_selective_scan.register_fake
def _scan_shapes(u: Tensor, *arguments: Any) -> Any:
    return torch.empty_like(u), torch.empty_like(arguments[7])


@upsample_argmax.register_fake
def _label_shapes(scores: Tensor, height: int, width: int) -> Tensor:
    return scores.new_empty((scores.shape[0], height, width), dtype=torch.uint8)


@torch.library.custom_op("streamseg::windowed_causal_conv_backward", mutates_args=())
def windowed_causal_conv_backward(
    inputs: list[Tensor], gradients: list[Tensor], geometry: list[int]
) -> list[Tensor]:
    """Gradients of the four inputs by the native library; ``geometry`` as in the forward op."""
    return list(_NATIVE.causal_conv_backward(inputs, gradients, geometry))


@torch.library.custom_op("streamseg::windowed_selective_scan_backward", mutates_args=())
def windowed_selective_scan_backward(
    inputs: list[Tensor], gradients: list[Tensor], geometry: list[int]
) -> list[Tensor]:
    """Gradients of the nine inputs by the native library; ``geometry`` as in the forward op."""
    return list(_NATIVE.selective_scan_backward(inputs, gradients, geometry))


@windowed_causal_conv_backward.register_fake
@windowed_selective_scan_backward.register_fake
def _gradient_shapes(inputs: list[Tensor], *_: Any) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in inputs]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = [entry for entry in inputs if isinstance(entry, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.geometry = list(inputs[len(tensors) :])
    ctx.like = [(entry.shape, entry.dtype) for entry in output]


def _backward_of(reference: Any, native: Any) -> Any:
    """Gradients by the native backward, elsewhere by running the reference once more."""

    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        if _NATIVE.serves(*tensors):
            dense = [
                tensors[0].new_zeros(shape, dtype=dtype) if gradient is None else gradient
                for gradient, (shape, dtype) in zip(gradients, ctx.like, strict=True)
            ]
            return (*native(list(tensors), dense, ctx.geometry), *(None for _ in range(6)))
        return (*_replay(ctx, reference, gradients), *(None for _ in range(6)))

    return backward


def _replay(ctx: Any, reference: Any, gradients: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Run the reference again under autograd, so that only the inputs had to be kept."""
    with torch.enable_grad():
        tensors = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        ]
        outputs = reference(*tensors, WindowGeometry(*ctx.geometry))
    kept = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in kept],
            wanted,
            [gradient for _, gradient in kept],
            allow_unused=True,
        )
    )
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


windowed_causal_conv.register_autograd(
    _backward_of(windowed_causal_conv_reference, windowed_causal_conv_backward),
    setup_context=_remember,
)
windowed_selective_scan.register_autograd(
    _backward_of(windowed_selective_scan_reference, windowed_selective_scan_backward),
    setup_context=_remember,
)


class Kernels(Protocol):
    """What a device registers; arguments are those of the ops."""

    def causal_conv(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Run ``windowed_causal_conv``."""

    def selective_scan(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Run ``windowed_selective_scan``."""

    def upsample_argmax(self, scores: Tensor, height: int, width: int) -> Tensor:
        """Run ``upsample_argmax``."""


def register_kernels(device: str, kernels: Kernels) -> None:
    """Have tensors on ``device`` (``cpu``, ``cuda``) go to these kernels."""
    windowed_causal_conv.register_kernel(device)(kernels.causal_conv)
    windowed_selective_scan.register_kernel(device)(kernels.selective_scan)
    upsample_argmax.register_kernel(device)(kernels.upsample_argmax)


register_kernels("cpu", _NATIVE)
register_kernels("cuda", CudaKernels())
