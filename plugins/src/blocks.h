// Shared by the CPU kernels: the tokens of a cell in order, and blocks of one lane of channels.
//
// Everything here has internal linkage and does not call the standard library: the linker could
// keep the copy of a shared inline function that was compiled with wide instructions, for all
// callers.
#pragma once

#include "problem.h"
#include "recurrence.h"

namespace streamseg {
namespace {

// Hands out the tokens of a cell in order.
class TokenCursor {
 public:
  TokenCursor(const Cell& cell, int32_t map_w)
      : width_(cell.width), step_(map_w - cell.width),
        token_(static_cast<int64_t>(cell.top) * map_w + cell.left), left_(cell.width) {}

  int64_t next() {
    const int64_t token = token_++;
    if (--left_ == 0) {
      left_ = width_;
      token_ += step_;
    }
    return token;
  }

 private:
  int32_t width_;
  int32_t step_;
  int64_t token_;
  int32_t left_;
};

// Divides one allocation into arrays of numbers, each aligned to 64 bytes.
template <class T>
class Arrays {
 public:
  explicit Arrays(void* memory) : next_(static_cast<char*>(memory)) {}
  static size_t bytes(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }
  T* take(int64_t count) {
    T* array = reinterpret_cast<T*>(next_);
    next_ += bytes(count);
    return array;
  }

 private:
  char* next_;
};

template <class V>
struct Blocks {
  using T = typename V::T;
  using R = typename V::R;
  static constexpr int W = V::kLanes;

  static int64_t blocks(int64_t channels) { return (channels + W - 1) / W; }

  static R load(const T* p, int64_t left) {
    return left >= W ? V::load(p) : V::load_part(p, static_cast<int>(left));
  }
  static void store(T* p, R x, int64_t left) {
    if (left >= W) {
      V::store(p, x);
    } else {
      V::store_part(p, x, static_cast<int>(left));
    }
  }

  // [channels, depth] to blocks of [depth, lanes]; lanes past the last channel hold 0.
  static void pack(const T* from, int64_t channels, int64_t depth, T scale, T* to) {
    for (int64_t c0 = 0; c0 < channels; c0 += W, to += depth * W) {
      if (is_square(channels - c0, depth)) {
        for (int64_t n = 0; n < depth; n += W) {
          transpose(from + c0 * depth + n, depth, scale, to + n * W, W);
        }
        continue;
      }
      for (int64_t lane = 0; lane < W; ++lane) {
        const T* row = from + (c0 + lane) * depth;
        for (int64_t n = 0; n < depth; ++n) {
          to[n * W + lane] = c0 + lane < channels ? row[n] * scale : T(0);
        }
      }
    }
  }

  static void unpack(const T* from, int64_t channels, int64_t depth, T* to) {
    for (int64_t c0 = 0; c0 < channels; c0 += W, from += depth * W) {
      if (is_square(channels - c0, depth)) {
        for (int64_t n = 0; n < depth; n += W) {
          transpose(from + n * W, W, T(1), to + c0 * depth + n, depth);
        }
        continue;
      }
      for (int64_t lane = 0; lane < W && c0 + lane < channels; ++lane) {
        T* row = to + (c0 + lane) * depth;
        for (int64_t n = 0; n < depth; ++n) row[n] = from[n * W + lane];
      }
    }
  }

  // Whether a block of channels is made of whole squares of registers.
  static bool is_square(int64_t channels, int64_t depth) {
    return V::kTransposes && channels >= W && depth % W == 0;
  }

  // One square; rows are `stride` apart.
  static void transpose(const T* from, int64_t from_stride, T scale, T* to, int64_t to_stride) {
    if constexpr (V::kTransposes) {
      R x[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) x[i] = V::load(from + i * from_stride);
      V::transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) V::store(to + i * to_stride, V::mul(x[i], V::set(scale)));
    }
  }

  template <class Problem>
  static int64_t state_offset(const Problem& p, const Item& item) {
    return (item.batch * p.grid.cells() + item.cell) * p.channels + item.begin;
  }
};

}  // namespace
}  // namespace streamseg
