// The arithmetic of one token, written once for every instruction set and for CUDA.
//
// `Math` supplies a register type R (one channel, or one channel a lane) and its elementary
// operations: set, add, sub, mul, div, fma (a * b + c), max, abs, exp, exp2. Glossary, after Mamba
// (arXiv 2312.00752, alg. 2): dt step size, A decay rate (negative), B and C input and output maps,
// S state, u input, z gate.
#pragma once

#include "windows.h"

namespace streamseg {

constexpr double kLog2E = 1.4426950408889634;

// log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), and log1p(e) = 2 atanh(e / (2 + e)) keeps its
// relative accuracy for the small steps that result from very negative x.
template <class Math>
STREAMSEG_HD typename Math::R softplus(typename Math::R x) {
  using R = typename Math::R;
  const R e = Math::exp(Math::mul(Math::set(-1), Math::abs(x)));
  const R s = Math::div(e, Math::add(Math::set(2), e));
  return Math::add(Math::max(Math::set(0), x), Math::twice_atanh(s));
}

template <class Math>
STREAMSEG_HD typename Math::R sigmoid(typename Math::R x) {
  const typename Math::R one = Math::set(1);
  return Math::div(one, Math::add(one, Math::exp(Math::mul(Math::set(-1), x))));
}

template <class Math>
STREAMSEG_HD typename Math::R silu(typename Math::R x) {
  return Math::div(x, Math::add(Math::set(1), Math::exp(Math::mul(Math::set(-1), x))));
}

// S = exp(dt A) S + dt u B. `decay` is exp(dt A) and `input` is dt u.
template <class Math>
STREAMSEG_HD typename Math::R advance(typename Math::R state, typename Math::R decay,
                                      typename Math::R input, typename Math::R b) {
  return Math::fma(decay, state, Math::mul(input, b));
}

// (C S + D u) SiLU(z)
template <class Math>
STREAMSEG_HD typename Math::R gate(typename Math::R scanned, typename Math::R skip,
                                   typename Math::R u, typename Math::R z) {
  return Math::mul(Math::fma(skip, u, scanned), silu<Math>(z));
}

}  // namespace streamseg
