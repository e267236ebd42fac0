// One Mamba layer of consecutive cells, from RMSNorm to the residual, in chunks of tokens that stay in
// cache.
#pragma once

#include "conv_kernel.h"
#include "products.h"
#include "scan_kernel.h"

namespace streamseg {
namespace {

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
    float* before; // [taps - 1, channels], rows of u before those of the chunk, of the cell at hand
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
    const float** sequence;  // rows of `before`, then the rows of u of one cell
    void* scan;
  };

  // Rows of a chunk that belong to one cell.
  struct Part {
    int64_t cell;
    int64_t row;  // the first
    int64_t tokens;
    bool begins;  // with the cell's first token
    bool ends;    // with its last
  };

  // Tokens that are multiplied together: a part of a large cell, or several small cells.
  struct Chunk {
    int64_t tokens;
    int64_t parts;
    int64_t at[kLayerChunk];  // where the rows start on the map
    Part part[kLayerChunk];
  };

  // Cuts the tokens of consecutive cells into chunks.
  class Walk {
   public:
    Walk(const WindowGrid& grid, int64_t begin, int64_t end)
        : grid_(grid), number_(begin), end_(end), cell_(grid.cell(begin)),
          cursor_(cell_, grid.cols.extent), left_(cell_.tokens()) {}

    // False if no tokens are left.
    bool next(int64_t map, int64_t features, Chunk& chunk) {
      chunk.tokens = 0;
      chunk.parts = 0;
      while (number_ < end_ && chunk.tokens < kLayerChunk) {
        const int64_t room = kLayerChunk - chunk.tokens;
        const int64_t taken = left_ < room ? left_ : room;
        chunk.part[chunk.parts++] = {number_, chunk.tokens, taken, left_ == cell_.tokens(),
                                     left_ == taken};
        for (int64_t i = 0; i < taken; ++i) {
          chunk.at[chunk.tokens++] = map + cursor_.next() * features;
        }
        left_ -= taken;
        if (left_ == 0 && ++number_ < end_) open();
      }
      return chunk.tokens > 0;
    }

   private:
    void open() {
      cell_ = grid_.cell(number_);
      cursor_ = TokenCursor(cell_, grid_.cols.extent);
      left_ = cell_.tokens();
    }

    const WindowGrid& grid_;
    int64_t number_;
    int64_t end_;
    Cell cell_;
    TokenCursor cursor_;
    int64_t left_;
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
                  {&b.before, (s.taps - 1) * s.channels},
                  {&b.u, n * s.channels},
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
    b.sequence = reinterpret_cast<const float**>(memory + bytes);
    for (int64_t i = 0; i < s.taps - 1; ++i) b.sequence[i] = b.before + i * s.channels;
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

  // [channels, depth] and its transpose.
  template <int Depth>
  static void split(const float* from, int64_t channels, int64_t depth, float* to) {
    const int64_t number = Depth > 0 ? Depth : depth;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t k = 0; k < number; ++k) to[k * channels + c] = from[c * number + k];
    }
  }

  template <int Depth>
  static void join(const float* const* rows, int64_t channels, int64_t depth, float* to) {
    const int64_t number = Depth > 0 ? Depth : depth;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t k = 0; k < number; ++k) to[c * number + k] = rows[k][c];
    }
  }

  // The convolution of one cell's rows; `state` and `next` are the cell's.
  static void convolve(const PackedLayer& l, const Part& part, const float* state, float* next,
                       Buffers& b) {
    const LayerSizes& s = l.sizes;
    const int64_t history = s.taps - 1;
    const int64_t at = part.row * s.channels;
    if (part.begins) {
      (history == 3 ? split<3> : split<0>)(state, s.channels, history, b.before);
    }
    for (int64_t t = 0; t < part.tokens; ++t) b.sequence[history + t] = b.u + at + t * s.channels;
    const Item whole{0, 0, 0, s.channels};
    Conv::convolve_cell({column(part.tokens), 1, s.channels, s.taps, nullptr, nullptr,
                         l.weights.conv_bias, nullptr, b.conv + at, nullptr},
                        whole, {part.tokens, b.sequence, l.weights.conv_weight, nullptr});
    const float* const* last = b.sequence + part.tokens;
    if (part.ends) {
      (history == 3 ? join<3> : join<0>)(last, s.channels, history, next);
    } else {
      for (int64_t k = 0; k < history; ++k) copy(last[k], s.channels, b.before + k * s.channels);
    }
  }

  // The scan of one cell's rows, into `u`.
  static void scan(const PackedLayer& l, const Part& part, const float* state, float* next,
                   typename Scan::Chunk& chunk, Buffers& b) {
    const LayerSizes& s = l.sizes;
    const int64_t at = part.row * s.channels;
    const int64_t row = part.row * s.states;
    if (part.begins) Scan::pack(state, s.channels, s.states, 1.0f, b.state);
    Scan::scan_cell({column(part.tokens), 1, s.channels, s.states, b.conv + at, b.dt + at,
                     l.weights.dt_bias, l.weights.A, b.B + row, b.C + row, l.weights.skip, b.z + at,
                     nullptr, b.u + at, nullptr, l.decay},
                    {0, 0, 0, s.channels}, b.state, chunk);
    if (part.ends) Scan::unpack(b.state, s.channels, s.states, next);
  }

  // Tokens as a map of one column.
  static WindowGrid column(int64_t count) {
    const auto tokens = static_cast<int32_t>(count);
    return {{tokens, tokens, 0}, {1, 1, 0}};
  }

  // What the layer adds to the tokens of a chunk, into `dt`. `place` is the number of the batch row's
  // first cell.
  static void run_chunk(const LayerProblem& p, int64_t place, const Chunk& chunk,
                        typename Scan::Chunk& steps, Buffers& b) {
    const PackedLayer& l = *p.layer;
    const LayerSizes& s = l.sizes;
    const int64_t n = chunk.tokens;
    const int64_t words = P::row_words(s.features, l.u_proj.precision);
    for (int64_t t = 0; t < n; ++t) {
      normalise(p.x + chunk.at[t], l.weights.norm, s.features, b.normed);
      b.scale[t] = P::convert(b.normed, s.features, l.u_proj.precision, b.rows + t * words);
    }
    P::multiply(b.rows, b.scale, n, l.u_proj, b.u, s.channels);
    P::multiply(b.rows, b.scale, n, l.z_proj, b.z, s.channels);
    for (int64_t i = 0; i < chunk.parts; ++i) {
      const int64_t at = (place + chunk.part[i].cell) * s.channels * (s.taps - 1);
      convolve(l, chunk.part[i], p.conv_state + at, p.next_conv_state + at, b);
    }
    convert(b.conv, s.channels, n, l.x_proj, b);
    P::multiply(b.rows, b.scale, n, l.x_proj, b.low, s.projections());
    for (int64_t t = 0; t < n; ++t) {
      const float* row = b.low + t * s.projections() + s.rank;
      copy(row, s.states, b.B + t * s.states);
      copy(row + s.states, s.states, b.C + t * s.states);
    }
    convert(b.low, s.projections(), n, l.dt_proj, b);
    P::multiply(b.rows, b.scale, n, l.dt_proj, b.dt, s.channels);
    for (int64_t i = 0; i < chunk.parts; ++i) {
      const int64_t at = (place + chunk.part[i].cell) * s.channels * s.states;
      scan(l, chunk.part[i], p.scan_state + at, p.next_scan_state + at, steps, b);
    }
    convert(b.u, s.channels, n, l.out_proj, b);
    P::multiply(b.rows, b.scale, n, l.out_proj, b.dt, s.features);
  }

  // Cells [begin, end).
  static void run(const LayerProblem& p, const Item& item, Scratch& scratch) {
    const PackedLayer& l = *p.layer;
    const LayerSizes& s = l.sizes;
    Buffers b = open(l, scratch);
    typename Scan::Chunk steps = Scan::open_buffers(l.decay, s.channels, s.states, b.scan);
    const int64_t map = item.batch * p.grid.tokens() * s.features;
    Walk walk(p.grid, item.begin, item.end);
    Chunk chunk;
    while (walk.next(map, s.features, chunk)) {
      run_chunk(p, item.batch * p.grid.cells(), chunk, steps, b);
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
  }
};

}  // namespace
}  // namespace streamseg
