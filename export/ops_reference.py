"""The operators of a step in plain PyTorch: what every kernel is compared with.

Glossary (Mamba, arXiv 2312.00752): ``u`` the convolved features, ``dt`` the step size before its
bias and softplus, ``A`` the state matrix (negative), ``B`` and ``C`` the input and output
projections, ``D`` channels (``d_inner``), ``N`` states per channel, ``K`` convolution taps, ``M``
tokens of the map in raster order, ``batch`` the batch dimension.

References run in any floating dtype; half-precision maps are computed in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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


def windowed_mamba_layer_reference(
    x: Tensor,
    norm: Tensor,
    u_proj: Tensor,
    z_proj: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A: Tensor,  # noqa: N803
    x_proj: Tensor,
    skip: Tensor,
    out_proj: Tensor,
    conv_state: Tensor,
    scan_state: Tensor,
    geometry: WindowGeometry,
) -> tuple[Tensor, Tensor, Tensor]:
    """One Mamba layer with RMSNorm before it and the residual behind it.

    Args:
        x: ``[batch, M, features]`` in map order.
        norm: ``[features]``, weight of the norm; its epsilon is 1e-5.
        u_proj: ``[features, D]``.
        z_proj: ``[features, D]``.
        conv_weight: ``[D, K]``.
        conv_bias: ``[D]``.
        dt_proj: ``[rank, D]``.
        dt_bias: ``[D]``.
        A: ``[D, N]``, already ``-exp(A_log)``.
        x_proj: ``[D, rank + 2 N]``.
        skip: ``[D]``.
        out_proj: ``[D, features]``.
        conv_state: ``[batch, cells, D, K-1]``, oldest first; not modified.
        scan_state: ``[batch, cells, D, N]``; not modified.
        geometry: map, window and offset.
    Returns:
        x plus the layer's output, and both states after the frame.
    Source: Mamba (arXiv 2312.00752) section 3.4; TV3S (CVPR 2025) eq. 2.
    """
    states, rank = A.shape[1], dt_proj.shape[0]
    normed = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * norm
    u, next_conv = windowed_causal_conv_reference(
        normed @ u_proj, conv_weight, conv_bias, conv_state, geometry
    )
    low, B, C = torch.split(u @ x_proj, [rank, states, states], dim=-1)  # noqa: N806
    y, next_scan = windowed_selective_scan_reference(
        u, low @ dt_proj, dt_bias, A, B, C, skip, normed @ z_proj, scan_state, geometry
    )
    return x + y @ out_proj, next_conv, next_scan


def multi_head_attention_reference(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """``softmax(q k^T / sqrt(depth)) v`` of every head, ``depth`` = features / heads.

    Args:
        q: ``[batch, queries, features]``, heads one after the other.
        k: ``[batch, keys, features]``.
        v: ``[batch, keys, features]``.
        heads: divides features.
    Returns:
        y like q.
    Source: Vaswani et al. (arXiv 1706.03762) section 3.2.
    """
    depth = q.shape[-1] // heads
    split = [t.reshape(*t.shape[:-1], heads, depth).transpose(1, 2) for t in (q, k, v)]
    scores = split[0] @ split[1].transpose(-1, -2) / depth**0.5
    return torch.matmul(torch.softmax(scores, -1), split[2]).transpose(1, 2).flatten(2)


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
