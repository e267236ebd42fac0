// Causal depthwise convolution of one cell, with bias and SiLU.
#pragma once

#include "blocks.h"

namespace streamseg {
namespace {

template <class V>
struct ConvKernel : Blocks<V> {
  using Base = Blocks<V>;
  using typename Base::R;
  using typename Base::T;
  using Base::W;
  using Base::load;
  using Base::state_offset;
  using Base::store;

  // The sequence of a cell as pointers to its rows: taps - 1 rows of old state, then the tokens.
  struct Sequence {
    int64_t length;
    const T* const* rows;
    const T* weight;  // [taps, channels of the item]
    T* extra;   // additional memory that the caller requested
  };

  static Sequence open_sequence(const ConvProblem<T>& p, const Item& item, int64_t extra,
                                Scratch& scratch) {
    const Cell cell = p.grid.cell(item.cell);
    const int64_t length = cell.tokens();
    const int64_t count = item.end - item.begin;
    const int64_t history = p.taps - 1;
    const size_t row_bytes = (static_cast<size_t>(history + length) * sizeof(T*) + 63) / 64 * 64;
    void* memory =
        scratch.reserve(row_bytes + Arrays<T>::bytes(p.taps * count) +
                        Arrays<T>::bytes(history * count) + Arrays<T>::bytes(extra));
    const T** rows = static_cast<const T**>(memory);
    Arrays<T> arrays(static_cast<char*>(memory) + row_bytes);
    T* weight = arrays.take(p.taps * count);
    T* old = arrays.take(history * count);
    const T* state = p.state + state_offset(p, item) * history;
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t k = 0; k < p.taps; ++k) {
        weight[k * count + c] = p.weight[(item.begin + c) * p.taps + k];
      }
      for (int64_t k = 0; k < history; ++k) old[k * count + c] = state[c * history + k];
    }
    for (int64_t k = 0; k < history; ++k) rows[k] = old + k * count;
    TokenCursor cursor(cell, p.grid.cols.extent);
    const T* map = p.x + item.batch * p.grid.tokens() * p.channels + item.begin;
    for (int64_t t = 0; t < length; ++t) rows[history + t] = map + cursor.next() * p.channels;
    return {length, rows, weight, arrays.take(extra)};
  }

  template <int Taps>
  static R convolve(const T* const* rows, int64_t taps, const T* weight, int64_t count, R sum,
                    int64_t c) {
    const int64_t number = Taps > 0 ? Taps : taps;
    for (int64_t k = 0; k < number; ++k) {
      sum = V::fma(load(weight + k * count + c, count - c), load(rows[k] + c, count - c), sum);
    }
    return sum;
  }

  template <int Taps>
  static void conv_rows(const ConvProblem<T>& p, const Item& item, const Sequence& sequence) {
    const int64_t count = item.end - item.begin;
    const int64_t full = count / W * W;
    const T* bias = p.bias + item.begin;
    TokenCursor cursor(p.grid.cell(item.cell), p.grid.cols.extent);
    T* map = p.y + item.batch * p.grid.tokens() * p.channels + item.begin;
    const int64_t number = Taps > 0 ? Taps : p.taps;
    for (int64_t t = 0; t < sequence.length; ++t) {
      T* out = map + cursor.next() * p.channels;
      const T* const* rows = sequence.rows + t;
      for (int64_t c = 0; c < full; c += W) {
        R sum = V::load(bias + c);
        for (int64_t k = 0; k < number; ++k) {
          sum = V::fma(V::load(sequence.weight + k * count + c), V::load(rows[k] + c), sum);
        }
        V::store(out + c, silu<V>(sum));
      }
      if (full < count) {
        const R sum = convolve<Taps>(rows, p.taps, sequence.weight, count,
                                     load(bias + full, count - full), full);
        store(out + full, silu<V>(sum), count - full);
      }
    }
  }

  static void convolve_cell(const ConvProblem<T>& p, const Item& item, const Sequence& sequence) {
    if (p.taps == 4) {
      conv_rows<4>(p, item, sequence);
    } else {
      conv_rows<0>(p, item, sequence);
    }
  }

  static void run(const ConvProblem<T>& p, const Item& item, Scratch& scratch) {
    const Sequence sequence = open_sequence(p, item, 0, scratch);
    convolve_cell(p, item, sequence);
    const int64_t history = p.taps - 1;
    T* next = p.next_state + state_offset(p, item) * history;
    for (int64_t c = 0; c < item.end - item.begin; ++c) {
      for (int64_t k = 0; k < history; ++k) {
        next[c * history + k] = sequence.rows[sequence.length + k][c];
      }
    }
  }
};

}  // namespace
}  // namespace streamseg
