// Gradients of the causal convolution of one cell.
#pragma once

#include "conv_kernel.h"
#include "bounds.h"

namespace streamseg {
namespace {

template <class V>
struct ConvBackward : ConvKernel<V> {
  using Base = ConvKernel<V>;
  using typename Base::R;
  using typename Base::Sequence;
  using typename Base::T;
  using Base::W;
  using Base::load;
  using Base::open_sequence;
  using Base::state_offset;
  using Base::store;

  static void run(const ConvProblem<T>& p, const ConvGradients<T>& g, const Item& item,
                  Scratch& scratch) {
    const int64_t count = item.end - item.begin;
    const int64_t history = p.taps - 1;
    const Cell cell = p.grid.cell(item.cell);
    // Gradient before SiLU for one block of channels, with taps - 1 zeros at each end.
    const int64_t padded = cell.tokens() + 2 * history;
    const Sequence sequence = open_sequence(p, item, padded * W, scratch);
    T* inner = sequence.extra;
    const int64_t map = item.batch * p.grid.tokens() * p.channels + item.begin;
    const int64_t partial = item.batch * p.grid.cells() + item.cell;
    T* grad_weight = g.weight + (partial * p.channels + item.begin) * p.taps;
    T* grad_bias = g.bias + partial * p.channels + item.begin;
    const int64_t offset = state_offset(p, item) * history;
    for (int64_t c = 0; c < count; c += W) {
      const int64_t left = count - c;
      const int64_t lanes = left < W ? left : W;
      R sum_bias = V::set(0);
      R sum_weight[kMaxTaps];
      for (int64_t k = 0; k < p.taps; ++k) sum_weight[k] = V::set(0);
      for (int64_t k = 0; k < history; ++k) {
        V::store(inner + k * W, V::set(0));
        V::store(inner + (history + sequence.length + k) * W, V::set(0));
      }
      TokenCursor cursor(cell, p.grid.cols.extent);
      for (int64_t t = 0; t < sequence.length; ++t) {
        const R x = Base::template convolve<0>(sequence.rows + t, p.taps, sequence.weight, count,
                                load(p.bias + item.begin + c, left), c);
        const R gradient = load(g.y + map + cursor.next() * p.channels + c, left);
        const R s = sigmoid<V>(x);
        // d SiLU / dx = s (1 + x (1 - s))
        const R slope = V::mul(s, V::fma(x, V::sub(V::set(1), s), V::set(1)));
        const R before = V::mul(gradient, slope);
        V::store(inner + (history + t) * W, before);
        sum_bias = V::add(sum_bias, before);
        for (int64_t k = 0; k < p.taps; ++k) {
          sum_weight[k] = V::fma(before, load(sequence.rows[t + k] + c, left), sum_weight[k]);
        }
      }
      store(grad_bias + c, sum_bias, left);
      for (int64_t k = 0; k < p.taps; ++k) {
        T lane[W];
        V::store(lane, sum_weight[k]);
        for (int64_t i = 0; i < lanes; ++i) grad_weight[(c + i) * p.taps + k] = lane[i];
      }
      cursor = TokenCursor(cell, p.grid.cols.extent);
      for (int64_t i = 0; i < history + sequence.length; ++i) {
        R sum = V::set(0);
        for (int64_t k = 0; k < p.taps; ++k) {
          sum = V::fma(load(sequence.weight + k * count + c, left),
                       V::load(inner + (history + i - k) * W), sum);
        }
        T lane[W];
        V::store(lane, sum);
        if (i >= sequence.length && g.next_state != nullptr) {
          for (int64_t j = 0; j < lanes; ++j) {
            lane[j] += g.next_state[offset + (c + j) * history + i - sequence.length];
          }
        }
        T* out = i < history ? g.state + offset + c * history + i
                             : g.x + map + cursor.next() * p.channels + c;
        const int64_t stride = i < history ? history : 1;
        for (int64_t j = 0; j < lanes; ++j) out[j * stride] = lane[j];
      }
    }
  }
};

}  // namespace
}  // namespace streamseg
