"""Selective scan of whole sequences as Triton kernels, with gradients; for training on CUDA.

One program runs a block of channels of one sequence, token by token, with the states in registers.
The backward kernel first runs forward again and keeps every token's states, then walks back.

Glossary (Mamba, arXiv 2312.00752): ``u`` input, ``delta`` step size, ``A`` state matrix, ``B`` and
``C`` input and output projections, ``D`` the skip; ``N`` states per channel. All is float32.
"""

# ruff: noqa: N803
from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

_CHANNELS = 64


@triton.jit  # type: ignore[misc,untyped-decorator,unused-ignore]
def _softplus(x):  # type: ignore[no-untyped-def]
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))


@triton.jit  # type: ignore[misc,untyped-decorator,unused-ignore]
def _forward(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, D, z, bias, y, length, channels, states,
    BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, STATES)
    real, seen = d < channels, n < states
    both = real[:, None] & seen[None, :]
    a = tl.load(A + d[:, None] * states + n[None, :], mask=both, other=0.0)
    skip, shift = tl.load(D + d, mask=real, other=0.0), tl.load(bias + d, mask=real, other=0.0)
    state = tl.zeros((BLOCK, STATES), tl.float32)
    for token in range(length):
        at = (sequence * length + token) * channels + d
        on = (sequence * length + token) * states + n
        x = tl.load(u + at, mask=real, other=0.0)
        gate = tl.load(z + at, mask=real, other=0.0)
        step = _softplus(tl.load(delta + at, mask=real, other=0.0) + shift)
        into, out = tl.load(B + on, mask=seen, other=0.0), tl.load(C + on, mask=seen, other=0.0)
        state = tl.exp(step[:, None] * a) * state + (step * x)[:, None] * into[None, :]
        found = tl.sum(state * out[None, :], 1) + skip * x
        tl.store(y + at, found * gate * tl.sigmoid(gate), mask=real)


@triton.jit  # type: ignore[misc,untyped-decorator,unused-ignore]
def _backward(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, D, z, bias, dy, kept, du, ddelta, dA, dB, dC, dD, dz,
    length, channels, states, BLOCK: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    sequence, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = block * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, STATES)
    real, seen = d < channels, n < states
    both = real[:, None] & seen[None, :]
    cells = d[:, None] * states + n[None, :]
    a = tl.load(A + cells, mask=both, other=0.0)
    skip, shift = tl.load(D + d, mask=real, other=0.0), tl.load(bias + d, mask=real, other=0.0)
    state = tl.zeros((BLOCK, STATES), tl.float32)
    for token in range(length):
        at = (sequence * length + token) * channels + d
        x = tl.load(u + at, mask=real, other=0.0)
        step = _softplus(tl.load(delta + at, mask=real, other=0.0) + shift)
        on = (sequence * length + token) * states + n
        into = tl.load(B + on, mask=seen, other=0.0)
        state = tl.exp(step[:, None] * a) * state + (step * x)[:, None] * into[None, :]
        place = (sequence * length + token) * channels * states
        tl.store(kept + place + cells, state, mask=both)
    tl.debug_barrier()

    carry = tl.zeros((BLOCK, STATES), tl.float32)
    into_a = tl.zeros((BLOCK, STATES), tl.float32)
    into_skip = tl.zeros((BLOCK,), tl.float32)
    # B and C are shared by all channels: every block of channels writes sums of its own.
    shared = (block * tl.num_programs(0) + sequence) * length * states
    for back in range(length):
        token = length - 1 - back
        at = (sequence * length + token) * channels + d
        on = (sequence * length + token) * states + n
        x, raw = tl.load(u + at, mask=real, other=0.0), tl.load(delta + at, mask=real, other=0.0)
        gate, given = tl.load(z + at, mask=real, other=0.0), tl.load(dy + at, mask=real, other=0.0)
        into, out = tl.load(B + on, mask=seen, other=0.0), tl.load(C + on, mask=seen, other=0.0)
        place = (sequence * length + token) * channels * states
        state = tl.load(kept + place + cells, mask=both, other=0.0)
        earlier = both & (token > 0)
        before = tl.load(kept + place - channels * states + cells, mask=earlier, other=0.0)
        step, open_ = _softplus(raw + shift), tl.sigmoid(gate)
        found = tl.sum(state * out[None, :], 1) + skip * x
        tl.store(dz + at, given * found * open_ * (1.0 + gate * (1.0 - open_)), mask=real)
        given = given * gate * open_
        into_skip += given * x
        carry += given[:, None] * out[None, :]
        tl.store(dC + shared + token * states + n, tl.sum(given[:, None] * state, 0), mask=seen)
        fed = tl.sum(carry * into[None, :], 1)
        tl.store(du + at, given * skip + fed * step, mask=real)
        part = tl.sum(carry * (step * x)[:, None], 0)
        tl.store(dB + shared + token * states + n, part, mask=seen)
        carry *= tl.exp(step[:, None] * a)
        into_a += carry * before * step[:, None]
        slope = tl.sum(carry * before * a, 1) + fed * x
        tl.store(ddelta + at, slope * tl.sigmoid(raw + shift), mask=real)
    tl.store(dA + sequence * channels * states + cells, into_a, mask=both)
    tl.store(dD + sequence * channels + d, into_skip, mask=real)


class _Scan(torch.autograd.Function):
    """Arguments ``[sequences, length, channels or states]``, dense."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        u, states = tensors[0], tensors[2].shape[1]
        ctx.save_for_backward(*tensors)
        y = torch.empty_like(u)
        if y.numel():
            _forward[_grid(u)](*tensors, y, *_sizes(u, states))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        u, delta, A, B, C, D, z, bias = ctx.saved_tensors  # noqa: N806
        (sequences, length, channels), states = u.shape, A.shape[1]
        blocks = _grid(u)[1]
        kept = u.new_empty(sequences, length, channels, states)
        du, ddelta, dz = (torch.empty_like(u) for _ in range(3))
        dA, dD = u.new_empty(sequences, channels, states), u.new_empty(sequences, channels)  # noqa: N806
        dB, dC = (u.new_empty(blocks, sequences, length, states) for _ in range(2))  # noqa: N806
        gradients = (du, ddelta, dA, dB, dC, dD, dz)
        _backward[_grid(u)](
            u, delta, A, B, C, D, z, bias, dy.contiguous(), kept, *gradients, *_sizes(u, states)
        )
        shared = (dB.sum(0), dC.sum(0))
        return du, ddelta, dA.sum(0), *shared, dD.sum(0), dz, ddelta.sum((0, 1))


def _grid(u: Tensor) -> tuple[int, int]:
    return u.shape[0], -(-u.shape[2] // _block(u))


def _block(u: Tensor) -> int:
    return min(_CHANNELS, int(triton.next_power_of_2(u.shape[2])))


def _sizes(u: Tensor, states: int) -> tuple[int, ...]:
    return u.shape[1], u.shape[2], states, _block(u), triton.next_power_of_2(states)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    z: Tensor,
    delta_bias: Tensor,
    delta_softplus: bool,
) -> Tensor:
    """``(S C + D u) SiLU(z)``, ``S = exp(delta A) S + delta B u`` from the zero state.

    Args:
        u: ``[sequences, channels, length]`` float32, as ``delta`` and ``z``.
        delta: step size before its bias and softplus.
        A: ``[channels, N]``, negative.
        B: ``[sequences, N, length]``, as ``C``.
        C: output projection.
        D: ``[channels]``, as ``delta_bias``.
        z: gate before SiLU.
        delta_bias: added to ``delta``.
        delta_softplus: only True.
    Returns:
        Like ``u``, float32.
    Raises:
        ValueError: without softplus.
    Source: Mamba (arXiv 2312.00752) algorithm 2; the signature is that of ``selective_scan_fn``.
    """
    if not delta_softplus:
        raise ValueError("delta_softplus is False: this scan takes softplus of delta")
    rows = [tensor.float().transpose(1, 2).contiguous() for tensor in (u, delta, B, C, z)]
    x, step, into, out, gate = rows
    weights = [tensor.float().contiguous() for tensor in (A, D, delta_bias)]
    y: Tensor = _Scan.apply(x, step, weights[0], into, out, weights[1], gate, weights[2])  # type: ignore[no-untyped-call]
    return y.transpose(1, 2)
