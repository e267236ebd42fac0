// Matrix products of fused operators on packed weights, for every lane type: rows of activations,
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

// Adding and subtracting it rounds to an integer, ties to even, for |x| < 2^22.
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
inline float round_integer(float x) { return (x + kMagic) - kMagic; }

constexpr float kShares = 255;          // 8-bit integer of a share of 1
constexpr float kLowest = -3.4e38f;     // a score whose share is 0
constexpr float kFaintest = -200.0f;    // 2^this is 0

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
  static constexpr Precision kSmall = Precision::kBfloat16;  // of an int8 layer's small products
  static constexpr int kRows = V::kLanes >= 16 ? 8 : V::kLanes >= 8 ? 6 : 2;

  // Size of one row of activations with `depth` columns, in numbers.
  static int64_t row_words(int64_t depth, Precision) { return depth; }

  static int64_t padded(int64_t columns) { return (columns + kPanel - 1) / kPanel * kPanel; }

  static size_t packed_bytes(int64_t depth, int64_t columns, Precision) {
    return static_cast<size_t>(depth * padded(columns)) * 4;
  }

  // Numbers of one lane of columns of weight [depth, columns]; 0 past the last.
  static R lane(const float* weight, int64_t columns, int64_t k, int64_t n) {
    return n < columns ? B::load(weight + k * columns + n, columns - n) : V::set(0);
  }

  // Scales of one lane of columns, whose largest integer becomes 127. NaN if a number is not finite.
  static R column_scale(const float* weight, int64_t depth, int64_t columns, int64_t n) {
    R top = V::set(0);
    R poison = V::set(0);
    for (int64_t k = 0; k < depth; ++k) {
      const R x = lane(weight, columns, k, n);
      top = V::max(top, V::abs(x));
      poison = V::fma(x, V::set(0), poison);
    }
    alignas(64) float unit[W];
    V::store(unit, top);
    for (int j = 0; j < W; ++j) unit[j] = unit[j] > kSmallest ? unit[j] / 127.0f : 1.0f;
    return V::add(V::load(unit), poison);
  }

  static R round_lane(R x) {
    const R magic = V::set(kMagic);
    return V::sub(V::add(x, magic), magic);
  }

  static R round_halves(R x) {
    alignas(64) float numbers[W];
    V::store(numbers, x);
    // Unrolled, the compiler would not vectorise it.
#pragma GCC unroll 1
    for (int j = 0; j < W; ++j) numbers[j] = round_bfloat16(numbers[j]);
    return V::load(numbers);
  }

  // weight: [depth, columns]. Scales of the columns go to `scale`, padded.
  static void pack(const float* weight, int64_t depth, int64_t columns, Precision precision,
                   void* panels, float* scale, int32_t*) {
    for (int64_t n = 0; n < padded(columns); n += W) {
      auto* out = static_cast<float*>(panels) + n / kPanel * depth * kPanel + n % kPanel;
      const bool integers = precision == Precision::kInt8;
      const R unit = integers ? column_scale(weight, depth, columns, n) : V::set(1);
      V::store(scale + n, unit);
      for (int64_t k = 0; k < depth; ++k) {
        R x = lane(weight, columns, k, n);
        if (integers) x = round_lane(V::div(x, unit));
        if (precision == Precision::kBfloat16) x = round_halves(x);
        V::store(out + k * kPanel, x);
      }
    }
  }

  // The same for a weight that rows of `shares` are multiplied by.
  static void pack_shared(const float* weight, int64_t depth, int64_t columns, Precision precision,
                          void* panels, float* scale, int32_t* sums) {
    pack(weight, depth, columns, precision, panels, scale, sums);
  }

  // 2^(score - top), rounded: a row of activations. int8 counts in units of 1/255. `scores` ends in
  // kLowest up to a multiple of 16. Returns the sum of the rounded numbers.
  static float shares(const float* scores, int64_t count, float top, Precision precision,
                      float* out) {
    R total = V::set(0);
    for (int64_t k = 0; k < count; k += W) {
      R x = share(scores + k, top);
      if (precision == Precision::kInt8) x = round_lane(V::mul(x, V::set(kShares)));
      if (precision == Precision::kBfloat16) x = round_halves(x);
      B::store(out + k, x, count - k);
      total = V::add(total, x);
    }
    return V::sum(total);
  }

  static R share(const float* scores, float top) {
    return V::exp2(V::max(V::set(kFaintest), V::sub(V::load(scores), V::set(top))));
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
