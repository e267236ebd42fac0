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
  using Conv = ConvKernel<V>;
  using Scan = ScanKernel<V>;
  static constexpr int W = V::kLanes;
  using Blocks<V>::load;
  using Blocks<V>::store;

  struct Buffers {
    float* normed; // [features]
    float* before; // [taps - 1, channels], the last rows of u of the previous chunk; then u
    float* u;      // [chunk, channels]; later the scan's output
    float* conv;   // [chunk, channels]
    float* z;      // [chunk, channels]
    float* dt;     // [chunk, channels]; later the last product's output
    float* low;    // [chunk, projections]
    float* B;      // [chunk, states]
    float* C;      // [chunk, states]
    float* scale;  // [chunk]
    float* rows;   // activations of a product
    float* state;  // of the scan, packed
    const float** sequence;  // rows of `before` and u
    void* scan;
  };

  // Where the rows of a chunk start on the map.
  struct Chunk {
    int64_t tokens;
    int64_t at[kLayerChunk];
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
    Buffers b;
    const struct {
      float** field;
      int64_t size;
    } arrays[] = {{&b.normed, widest},
                  {&b.before, (s.taps - 1 + n) * s.channels},
                  {&b.conv, n * s.channels},
                  {&b.z, n * s.channels},
                  {&b.dt, n * widest},
                  {&b.low, n * s.projections()},
                  {&b.B, n * s.states},
                  {&b.C, n * s.states},
                  {&b.scale, n},
                  {&b.rows, n * widest_row(l)},
                  {&b.state, Scan::state_size(s.channels, s.states)}};
    size_t bytes = 0;
    for (const auto& array : arrays) bytes += Arrays<float>::bytes(array.size);
    const size_t pointers = Arrays<const float*>::bytes(s.taps - 1 + n);
    char* memory =
        static_cast<char*>(scratch.reserve(bytes + pointers + Scan::buffer_bytes(s.channels)));
    Arrays<float> taken(memory);
    for (const auto& array : arrays) *array.field = taken.take(array.size);
    b.u = b.before + (s.taps - 1) * s.channels;
    b.sequence = reinterpret_cast<const float**>(memory + bytes);
    for (int64_t i = 0; i < s.taps - 1 + n; ++i) b.sequence[i] = b.before + i * s.channels;
    b.scan = memory + bytes + pointers;
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

  static void load_state(const PackedLayer& l, const float* conv, const float* scan, Buffers& b) {
    const LayerSizes& s = l.sizes;
    for (int64_t c = 0; c < s.channels; ++c) {
      for (int64_t k = 0; k < s.taps - 1; ++k) b.before[k * s.channels + c] = *conv++;
    }
    Scan::pack(scan, s.channels, s.states, 1.0f, b.state);
  }

  static void store_state(const PackedLayer& l, const Buffers& b, float* conv, float* scan) {
    const LayerSizes& s = l.sizes;
    for (int64_t c = 0; c < s.channels; ++c) {
      for (int64_t k = 0; k < s.taps - 1; ++k) *conv++ = b.before[k * s.channels + c];
    }
    Scan::unpack(b.state, s.channels, s.states, scan);
  }

  // The products, convolution and scan of a chunk, as a map of one column; the result is in `dt`.
  static void run_chunk(const PackedLayer& l, const float* x, const Chunk& chunk, Buffers& b) {
    const LayerSizes& s = l.sizes;
    const int64_t n = chunk.tokens;
    const int64_t words = P::row_words(s.features, l.u_proj.precision);
    for (int64_t t = 0; t < n; ++t) {
      normalise(x + chunk.at[t], l.weights.norm, s.features, b.normed);
      b.scale[t] = P::convert(b.normed, s.features, l.u_proj.precision, b.rows + t * words);
    }
    P::multiply(b.rows, b.scale, n, l.u_proj, b.u, s.channels);
    P::multiply(b.rows, b.scale, n, l.z_proj, b.z, s.channels);
    const auto tokens = static_cast<int32_t>(n);
    const WindowGrid column{{tokens, tokens, 0}, {1, 1, 0}};
    const Item whole{0, 0, 0, s.channels};
    Conv::convolve_cell({column, 1, s.channels, s.taps, nullptr, nullptr, l.weights.conv_bias, nullptr,
                         b.conv, nullptr},
                        whole, {n, b.sequence, l.weights.conv_weight, nullptr});
    copy(b.before + n * s.channels, (s.taps - 1) * s.channels, b.before);
    convert(b.conv, s.channels, n, l.x_proj, b);
    P::multiply(b.rows, b.scale, n, l.x_proj, b.low, s.projections());
    for (int64_t t = 0; t < n; ++t) {
      const float* row = b.low + t * s.projections() + s.rank;
      copy(row, s.states, b.B + t * s.states);
      copy(row + s.states, s.states, b.C + t * s.states);
    }
    convert(b.low, s.projections(), n, l.dt_proj, b);
    P::multiply(b.rows, b.scale, n, l.dt_proj, b.dt, s.channels);
    Scan::scan_cell({column, 1, s.channels, s.states, b.conv, b.dt, l.weights.dt_bias, l.weights.A, b.B,
                     b.C, l.weights.skip, b.z, nullptr, b.u, nullptr, l.decay},
                    whole, b.state, b.scan);
    convert(b.u, s.channels, n, l.out_proj, b);
    P::multiply(b.rows, b.scale, n, l.out_proj, b.dt, s.features);
  }

  static void run(const LayerProblem& p, const Item& item, Scratch& scratch) {
    const PackedLayer& l = *p.layer;
    const LayerSizes& s = l.sizes;
    Buffers b = open(l, scratch);
    const Cell cell = p.grid.cell(item.cell);
    const int64_t place = item.batch * p.grid.cells() + item.cell;
    const int64_t conv_at = place * s.channels * (s.taps - 1);
    const int64_t scan_at = place * s.channels * s.states;
    const int64_t map = item.batch * p.grid.tokens() * s.features;
    TokenCursor cursor(cell, p.grid.cols.extent);
    load_state(l, p.conv_state + conv_at, p.scan_state + scan_at, b);
    Chunk chunk;
    for (int64_t left = cell.tokens(); left > 0; left -= chunk.tokens) {
      chunk.tokens = left < kLayerChunk ? left : kLayerChunk;
      for (int64_t i = 0; i < chunk.tokens; ++i) chunk.at[i] = map + cursor.next() * s.features;
      run_chunk(l, p.x, chunk, b);
      for (int64_t i = 0; i < chunk.tokens; ++i) {
        const float* x = p.x + chunk.at[i];
        float* y = p.y + chunk.at[i];
        const float* delta = b.dt + i * s.features;
        for (int64_t e = 0; e < s.features; e += W) {
          const int64_t rest = s.features - e;
          store(y + e, V::add(load(x + e, rest), load(delta + e, rest)), rest);
        }
      }
    }
    store_state(l, b, p.next_conv_state + conv_at, p.next_scan_state + scan_at);
  }
};

}  // namespace
}  // namespace streamseg
