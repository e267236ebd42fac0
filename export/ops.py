"""The operators of a step as ``torch.library`` ops, each with its plain PyTorch reference.

Glossary (Mamba, arXiv 2312.00752): ``u`` the convolved features, ``dt`` the step size before its
bias and softplus, ``A`` the state matrix (negative), ``B`` and ``C`` the input and output
projections, ``D`` channels (``d_inner``), ``N`` states per channel, ``K`` convolution taps, ``M``
tokens of the map in raster order, ``batch`` the batch dimension.

References run in any floating dtype; half-precision maps are computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.export import ops_cuda, ops_native
from streamseg.export.windows import CellOrder, WindowGeometry, cell_order


def windowed_causal_conv_reference(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor, geometry: WindowGeometry
) -> tuple[Tensor, Tensor]:
    """Causal depthwise convolution within each cell, with bias and SiLU.

    Args:
        x: ``[batch, M, D]``, features in map order.
        weight: ``[D, K]``, taps, oldest first.
        bias: ``[D]``.
        state: ``[batch, cells, D, K-1]``, the inputs before this frame, oldest first; not modified.
        geometry: map, window and offset.
    Returns:
        SiLU(conv + bias) ``[batch, M, D]`` in x's dtype, next state like ``state``.
    Source: Mamba (arXiv 2312.00752) section 3.4; TV3S (CVPR 2025) eq. 2.
    """
    taps = weight.shape[1]
    cells = cell_order(geometry)
    order, inverse = _indices(cells, x)
    sequence = _append_zero(x.to(state.dtype))[:, order]  # [batch, L, cells, D]
    old = state.permute(0, 3, 1, 2)  # [batch, K-1, cells, D]
    padded = torch.cat([old, sequence], dim=1)
    length = sequence.shape[1]
    total = bias + sum(padded[:, k : k + length] * weight[:, k] for k in range(taps))
    y = F.silu(total).flatten(1, 2)[:, inverse]
    tail = torch.from_numpy(cells.tail(taps - 1).copy()).to(x.device)
    newest = padded.flatten(1, 2)[:, tail]  # [batch, K-1, cells, D]
    return y.to(x.dtype), newest.permute(0, 2, 3, 1).contiguous()


def windowed_selective_scan_reference(
    u: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    skip: Tensor,
    z: Tensor,
    state: Tensor,
    geometry: WindowGeometry,
) -> tuple[Tensor, Tensor]:
    """Advance the windowed selective scan by one frame.

    ``S = exp(dt A) S + dt B u``, ``y = (S C + skip u) SiLU(z)``, ``dt`` after bias and softplus.

    Args:
        u: ``[batch, M, D]``, convolved features in map order.
        dt: ``[batch, M, D]``, step size before bias and softplus.
        dt_bias: ``[D]``.
        A: ``[D, N]``, already ``-exp(A_log)``.
        B: ``[batch, M, N]``.
        C: ``[batch, M, N]``.
        skip: ``[D]``.
        z: ``[batch, M, D]``, gate before SiLU.
        state: ``[batch, cells, D, N]``; not modified.
        geometry: map, window and offset.
    Returns:
        y ``[batch, M, D]`` in u's dtype, next state like ``state``.
    Source: TV3S (CVPR 2025) eq. 2; Mamba (arXiv 2312.00752) alg. 2.
    """
    order, inverse = _indices(cell_order(geometry), u)
    wide = state.dtype
    delta = F.softplus(dt.to(wide) + dt_bias)
    # Padding tokens get delta 0: decay exp(0) = 1 and no input, so they leave the state alone.
    steps = _append_zero(delta)[:, order]  # [batch, L, cells, D]
    inputs = _append_zero(delta * u.to(wide))[:, order]
    into = _append_zero(B.to(wide))[:, order]  # [batch, L, cells, N]
    out = _append_zero(C.to(wide))[:, order]
    outputs = []
    for token in range(order.shape[0]):
        decay = torch.exp(steps[:, token, :, :, None] * A)
        state = decay * state + inputs[:, token, :, :, None] * into[:, token, :, None, :]
        outputs.append((state * out[:, token, :, None, :]).sum(-1))
    scanned = torch.stack(outputs, dim=1).flatten(1, 2)[:, inverse]
    y = (scanned + skip * u.to(wide)) * F.silu(z.to(wide))
    return y.to(u.dtype), state


def upsample_argmax_reference(scores: Tensor, height: int, width: int) -> Tensor:
    """Class of every pixel: bilinear upsampling (align_corners off), then the largest score.

    Args:
        scores: ``[batch, K, h, w]``, K at most 255.
        height: rows of the label map.
        width: columns of the label map.
    Returns:
        labels ``[batch, height, width]`` uint8; the lowest class wins a tie.
    """
    full = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
    return full.argmax(dim=1).to(torch.uint8)


def _append_zero(tokens: Tensor) -> Tensor:
    """Append the zero row that padding indices point at: ``[batch, M, X] -> [batch, M+1, X]``."""
    return F.pad(tokens, (0, 0, 0, 1))


def _indices(cells: CellOrder, like: Tensor) -> tuple[Tensor, Tensor]:
    order = torch.from_numpy(cells.order.copy()).to(like.device)
    return order, torch.from_numpy(cells.inverse.copy()).to(like.device)


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
    tensors = (x, weight, bias, state)
    if ops_native.serves(*tensors):
        return ops_native.causal_conv(tensors, geometry)
    if ops_cuda.serves([x], [weight, bias, state]):
        return ops_cuda.causal_conv(tensors, geometry)
    return windowed_causal_conv_reference(*tensors, geometry)


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
    tensors = (u, dt, dt_bias, A, B, C, skip, z, state)
    if ops_native.serves(*tensors):
        return ops_native.selective_scan(tensors, geometry)
    if ops_cuda.serves([u, dt, B, C, z], [dt_bias, A, skip, state]):
        return ops_cuda.selective_scan(tensors, geometry)
    return windowed_selective_scan_reference(*tensors, geometry)


@torch.library.custom_op("streamseg::upsample_argmax", mutates_args=())
def upsample_argmax(scores: Tensor, height: int, width: int) -> Tensor:
    """See ``upsample_argmax_reference``."""
    if scores.dtype == torch.float32 and ops_native.serves(scores):
        return ops_native.upsample_argmax(scores, height, width)
    if ops_cuda.serves([scores]):
        return ops_cuda.upsample_argmax(scores, height, width)
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
    return list(ops_native.causal_conv_backward(inputs, gradients, WindowGeometry(*geometry)))


@torch.library.custom_op("streamseg::windowed_selective_scan_backward", mutates_args=())
def windowed_selective_scan_backward(
    inputs: list[Tensor], gradients: list[Tensor], geometry: list[int]
) -> list[Tensor]:
    """Gradients of the nine inputs by the native library; ``geometry`` as in the forward op."""
    return list(ops_native.selective_scan_backward(inputs, gradients, WindowGeometry(*geometry)))


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
        if ops_native.serves(*tensors):
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
