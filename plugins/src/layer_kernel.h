// One Mamba layer of one cell, from RMSNorm to the residual, in chunks of tokens that stay in cache.
#pragma once

#include "conv_kernel.h"
#include "products.h"
#include "scan_kernel.h"

namespace streamseg {
namespace {

constexpr int64_t kLayerChunk = 80;

template <class V, class P>
struct LayerKernel : Blocks<V> {
  using R = typename V::R;
  using T = float;
  static constexpr int W = V::kLanes;
  using Blocks<V>::load;
  using Blocks<V>::store;

  struct Buffers {
    float* x;      // [chunk, features], the chunk's tokens
    float* normed; // [features]
    float* u;      // [chunk, channels]; later the scan's output
    float* conv;   // [chunk, channels]
    float* z;      // [chunk, channels]
    float* dt;     // [chunk, channels]; later the last product's output
    float* low;    // [chunk, projections]
    float* B;      // [chunk, states]
    float* C;      // [chunk, states]
    float* scale;  // [chunk]
    float* rows;   // activations of a product
  };

  // Size of one row of activations, for the product that needs most: their precisions differ.
  static int64_t widest_row(const PackedLayer& l) {
    int64_t words = 0;
    const Packed* const products[] = {&l.u_proj, &l.z_proj, &l.x_proj, &l.dt_proj, &l.out_proj};
    for (const Packed* w : products) {
      const int64_t needed = P::row_words(w->depth, w->precision);
      words = needed > words ? needed : words;
    }
    return words;
  }

  static Buffers open(const PackedLayer& l, Scratch& scratch) {
    const LayerSizes& s = l.sizes;
    const int64_t n = kLayerChunk;
    const int64_t widest = s.channels > s.features ? s.channels : s.features;
    const int64_t words = widest_row(l);
    const int64_t sizes[] = {n * s.features, widest,        n * s.channels, n * s.channels,
                             n * s.channels, n * widest,    n * s.projections(), n * s.states,
                             n * s.states,   n,             n * words};
    size_t bytes = 0;
    for (const int64_t size : sizes) bytes += Arrays<float>::bytes(size);
    Arrays<float> arrays(scratch.reserve(bytes));
    Buffers b;
    float** const fields[] = {&b.x, &b.normed, &b.u, &b.conv, &b.z, &b.dt, &b.low,
                              &b.B, &b.C, &b.scale, &b.rows};
    for (int i = 0; i < 11; ++i) *fields[i] = arrays.take(sizes[i]);
    return b;
  }

  static void normalise(const float* x, const float* weight, int64_t features, float* out) {
    R sum = V::set(0);
    for (int64_t e = 0; e < features; e += W) {
      const R value = load(x + e, features - e);
      sum = V::fma(value, value, sum);
    }
    const float mean = V::sum(sum) / static_cast<float>(features);
    const R root = V::set(1.0f / __builtin_sqrtf(mean + kNormEpsilon));
    for (int64_t e = 0; e < features; e += W) {
      const int64_t left = features - e;
      store(out + e, V::mul(V::mul(load(x + e, left), root), load(weight + e, left)), left);
    }
  }

  static void convert(const float* from, int64_t stride, int64_t rows, const Packed& w, Buffers& b) {
    const int64_t words = P::row_words(w.depth, w.precision);
    for (int64_t t = 0; t < rows; ++t) {
      b.scale[t] = P::convert(from + t * stride, w.depth, w.precision, b.rows + t * words);
    }
  }

  static void copy(const float* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  }

  // Tokens first to first + n - 1 of a cell, as a map of one column.
  static void run_chunk(const PackedLayer& l, int64_t n, bool first, const LayerProblem& p,
                        int64_t conv_at, int64_t scan_at, Buffers& b, Scratch& scratch) {
    const LayerSizes& s = l.sizes;
    const int64_t words = P::row_words(s.features, l.u_proj.precision);
    for (int64_t t = 0; t < n; ++t) {
      normalise(b.x + t * s.features, l.weights.norm, s.features, b.normed);
      b.scale[t] = P::convert(b.normed, s.features, l.u_proj.precision, b.rows + t * words);
    }
    P::multiply(b.rows, b.scale, n, l.u_proj, b.u, s.channels);
    P::multiply(b.rows, b.scale, n, l.z_proj, b.z, s.channels);
    const auto tokens = static_cast<int32_t>(n);
    const WindowGrid column{{tokens, tokens, 0}, {1, 1, 0}};
    const Item whole{0, 0, 0, s.channels};
    float* conv = p.next_conv_state + conv_at;
    ConvKernel<V>::run({column, 1, s.channels, s.taps, b.u, l.weights.conv_weight,
                        l.weights.conv_bias, first ? p.conv_state + conv_at : conv, b.conv, conv},
                       whole, scratch);
    convert(b.conv, s.channels, n, l.x_proj, b);
    P::multiply(b.rows, b.scale, n, l.x_proj, b.low, s.projections());
    for (int64_t t = 0; t < n; ++t) {
      const float* row = b.low + t * s.projections() + s.rank;
      copy(row, s.states, b.B + t * s.states);
      copy(row + s.states, s.states, b.C + t * s.states);
    }
    convert(b.low, s.projections(), n, l.dt_proj, b);
    P::multiply(b.rows, b.scale, n, l.dt_proj, b.dt, s.channels);
    float* scan = p.next_scan_state + scan_at;
    ScanKernel<V>::run({column, 1, s.channels, s.states, b.conv, b.dt, l.weights.dt_bias,
                        l.weights.A, b.B, b.C, l.weights.skip, b.z,
                        first ? p.scan_state + scan_at : scan, b.u, scan, l.decay},
                       whole, scratch);
    convert(b.u, s.channels, n, l.out_proj, b);
    P::multiply(b.rows, b.scale, n, l.out_proj, b.dt, s.features);
  }

  static void run(const LayerProblem& p, const Item& item, Scratch& buffers, Scratch& scratch) {
    const PackedLayer& l = *p.layer;
    const LayerSizes& s = l.sizes;
    Buffers b = open(l, buffers);
    const Cell cell = p.grid.cell(item.cell);
    const int64_t place = item.batch * p.grid.cells() + item.cell;
    const int64_t conv_at = place * s.channels * (s.taps - 1);
    const int64_t scan_at = place * s.channels * s.states;
    const int64_t map = item.batch * p.grid.tokens() * s.features;
    TokenCursor cursor(cell, p.grid.cols.extent);
    int64_t at[kLayerChunk];
    for (int64_t t = 0; t < cell.tokens(); t += kLayerChunk) {
      const int64_t n = cell.tokens() - t < kLayerChunk ? cell.tokens() - t : kLayerChunk;
      for (int64_t i = 0; i < n; ++i) {
        at[i] = map + cursor.next() * s.features;
        copy(p.x + at[i], s.features, b.x + i * s.features);
      }
      run_chunk(l, n, t == 0, p, conv_at, scan_at, b, scratch);
      for (int64_t i = 0; i < n; ++i) {
        const float* delta = b.dt + i * s.features;
        for (int64_t e = 0; e < s.features; e += W) {
          const int64_t left = s.features - e;
          store(p.y + at[i] + e, V::add(load(b.x + i * s.features + e, left), load(delta + e, left)),
                left);
        }
      }
    }
  }
};

}  // namespace
}  // namespace streamseg
