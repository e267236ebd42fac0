// Matrix products of the fused layer on packed weights, for every lane type: rows of activations,
// rounded as the precision says, times a weight, in float32 sums.
//
// Generic lanes keep rounded numbers as float32: bfloat16 numbers are exact in it, and so are sums of
// up to 1024 products of 8-bit integers. Instruction sets with their own products replace this
// (products_avx512.h); their numbers are the same up to the order of sums.
#pragma once

#include "blocks.h"
#include "layer.h"

namespace streamseg {
namespace {

// Rounds to bfloat16, to nearest even; NaN stays NaN.
inline float round_bfloat16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  bits = (bits & 0x7fffffffu) > 0x7f800000u ? (bits | 0x400000u) & 0xffff0000u : rounded;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

constexpr float kSmallest = 1e-30f;  // a maximum below this counts as zero

// Nearest integer, ties to even, for |x| < 2^22.
inline float round_integer(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23
  return (x + magic) - magic;
}

// Scale of 8-bit integers: the largest becomes 127. NaN if a number is not finite, so it
// reaches the result.
inline float integer_scale(const float* x, int64_t count) {
  float top = 0;
  float poison = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float size = x[i] < 0 ? -x[i] : x[i];
    top = size > top ? size : top;
    poison += x[i] * 0.0f;
  }
  return (top > kSmallest ? top / 127.0f : 1.0f) + poison;
}

template <class V>
struct Products {
  using B = Blocks<V>;
  using R = typename V::R;
  static constexpr int W = V::kLanes;
  static constexpr int kPanel = 2 * W;  // columns
  static constexpr int kRows = V::kLanes >= 16 ? 8 : V::kLanes >= 8 ? 6 : 2;

  // Size of one row of activations with `depth` columns, in numbers.
  static int64_t row_words(int64_t depth, Precision) { return depth; }

  static int64_t padded(int64_t columns) { return (columns + kPanel - 1) / kPanel * kPanel; }

  static size_t packed_bytes(int64_t depth, int64_t columns, Precision) {
    return static_cast<size_t>(depth * padded(columns)) * 4;
  }

  // weight: [depth, columns]. Scales of the columns go to `scale`, padded.
  static void pack(const float* weight, int64_t depth, int64_t columns, Precision precision,
                   void* panels, float* scale, int32_t*) {
    auto* out = static_cast<float*>(panels);
    for (int64_t n0 = 0; n0 < columns; n0 += kPanel) {
      for (int64_t j = 0; j < kPanel; ++j) {
        const int64_t n = n0 + j;
        float top = 0;
        for (int64_t k = 0; n < columns && k < depth; ++k) {
          const float x = weight[k * columns + n];
          top = (x < 0 ? -x : x) > top ? (x < 0 ? -x : x) : top;
        }
        const float unit = precision == Precision::kInt8 && top > 0 ? top / 127.0f : 1.0f;
        scale[n] = unit;
        for (int64_t k = 0; k < depth; ++k) {
          float x = n < columns ? weight[k * columns + n] : 0.0f;
          if (precision == Precision::kInt8) x = round_integer(x / unit);
          if (precision == Precision::kBfloat16) x = round_bfloat16(x);
          out[k * kPanel + j] = x;
        }
      }
      out += depth * kPanel;
    }
  }

  // Rounds one row of activations to the precision; returns its scale.
  static float convert(const float* x, int64_t depth, Precision precision, float* out) {
    if (precision == Precision::kInt8) {
      const float scale = integer_scale(x, depth);
      const float inverse = 1.0f / scale;
      for (int64_t k = 0; k < depth; ++k) out[k] = round_integer(x[k] * inverse);
      return scale;
    }
    if (precision == Precision::kBfloat16) {
      for (int64_t k = 0; k < depth; ++k) out[k] = round_bfloat16(x[k]);
    } else {
      for (int64_t k = 0; k < depth; ++k) out[k] = x[k];
    }
    return 1.0f;
  }

  template <int Rows, int Halves>
  static void tile(const float* a, const float* panel, int64_t depth, const float* row_scale,
                   const float* scale, float* c, int64_t stride, int64_t left) {
    R x[Rows][Halves];
    for (int i = 0; i < Rows; ++i) {
      for (int h = 0; h < Halves; ++h) x[i][h] = V::set(0);
    }
    for (int64_t k = 0; k < depth; ++k) {
      R b[Halves];
#pragma GCC unroll 2
      for (int h = 0; h < Halves; ++h) b[h] = V::load(panel + k * kPanel + h * W);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const R v = V::set(a[i * depth + k]);
#pragma GCC unroll 2
        for (int h = 0; h < Halves; ++h) x[i][h] = V::fma(v, b[h], x[i][h]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
      for (int h = 0; h < Halves; ++h) {
        const R unit = V::mul(V::set(row_scale[i]), V::load(scale + h * W));
        B::store(c + i * stride + h * W, V::mul(x[i][h], unit), left - h * W);
      }
    }
  }

  // c [rows, columns], rows `stride` apart, = a [rows, depth] times the packed weight.
  static void multiply(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                       float* c, int64_t stride) {
    for (int64_t n = 0; n < w.columns; n += kPanel) {
      const float* panel = static_cast<const float*>(w.panels) + n * w.depth;
      const int64_t left = w.columns - n;
      const auto run = [&](auto tile, int64_t i) {
        tile(a + i * w.depth, panel, w.depth, row_scale + i, w.scale + n, c + i * stride + n, stride,
             left);
      };
      int64_t i = 0;
      for (; i + kRows <= rows; i += kRows) run(left > W ? tile<kRows, 2> : tile<kRows, 1>, i);
      for (; i < rows; ++i) run(left > W ? tile<1, 2> : tile<1, 1>, i);
    }
  }
};

}  // namespace
}  // namespace streamseg
