// Matrix products by instructions that multiply several narrow numbers at once and add them to a sum
// of 32 bits: weights and activations are packed along the depth, four 8-bit integers or two bfloat16
// numbers to a word of 32 bits.
//
// `D` supplies the instruction: a register type I of words, kTall (rows of a tile), kShift (added to
// the integers of activations, for instructions that take them unsigned; a column's sum of weights
// times the shift is subtracted afterwards), zero, load, set, dot, floats; and for integers largest and
// store_bytes.
#pragma once

#include "products.h"

namespace streamseg {
namespace {

template <class V, class D, int Rows, int Halves>
void word_tile(const uint32_t* a, int64_t words, const uint32_t* panel, const float* row_scale,
               const float* scale, const int32_t* sums, float* c, int64_t stride, int64_t left) {
  constexpr int W = V::kLanes;
  typename D::I x[Rows][Halves];
  for (int i = 0; i < Rows; ++i) {
    for (int h = 0; h < Halves; ++h) x[i][h] = D::zero();
  }
  for (int64_t k = 0; k < words; ++k) {
    typename D::I b[Halves];
#pragma GCC unroll 2
    for (int h = 0; h < Halves; ++h) b[h] = D::load(panel + (2 * k + h) * W);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const typename D::I v = D::set(a[i * words + k]);
#pragma GCC unroll 2
      for (int h = 0; h < Halves; ++h) x[i][h] = D::dot(x[i][h], v, b[h]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
    for (int h = 0; h < Halves; ++h) {
      const auto unit = V::mul(V::set(row_scale[i]), V::load(scale + h * W));
      const auto sum = V::mul(D::floats(x[i][h], sums + h * W), unit);
      Blocks<V>::store(c + i * stride + h * W, sum, left - h * W);
    }
  }
}

// c [rows, columns], rows `stride` apart, = a [rows, words] times the packed weight.
template <class V, class D>
void multiply_words(const float* a, const float* row_scale, int64_t rows, int64_t words,
                    const Packed& w, float* c, int64_t stride) {
  constexpr int W = V::kLanes;
  const auto* bits = reinterpret_cast<const uint32_t*>(a);
  for (int64_t n = 0; n < w.columns; n += 2 * W) {
    const auto* panel = static_cast<const uint32_t*>(w.panels) + n * words;
    const int64_t left = w.columns - n;
    const auto run = [&](auto tile, int64_t i) {
      tile(bits + i * words, words, panel, row_scale + i, w.scale + n, w.sums + n, c + i * stride + n,
           stride, left);
    };
    int64_t i = 0;
    for (; i + D::kTall <= rows; i += D::kTall) {
      run(left > W ? word_tile<V, D, D::kTall, 2> : word_tile<V, D, D::kTall, 1>, i);
    }
    for (; i < rows; ++i) run(left > W ? word_tile<V, D, 1, 2> : word_tile<V, D, 1, 1>, i);
  }
}

// Packs a weight's 8-bit integers, four to a word. `place(column, word)` is where a word of one of a
// panel's columns lies in the panel.
template <int Panel, class Place>
void pack_integers(const float* weight, int64_t depth, int64_t columns, int64_t words, uint32_t* out,
                   float* scale, int32_t* sums, Place place) {
  for (int64_t n = 0; n < (columns + Panel - 1) / Panel * Panel; ++n) {
    const auto at = [&](int64_t k) {
      return n < columns && k < depth ? weight[k * columns + n] : 0.0f;
    };
    float top = 0;
    for (int64_t k = 0; k < depth; ++k) {
      const float size = __builtin_fabsf(at(k));
      top = size > top ? size : top;
    }
    scale[n] = top > 0 ? top / 127.0f : 1.0f;
    sums[n] = 0;
    uint32_t* panel = out + n / Panel * words * Panel;
    for (int64_t word = 0; word < words; ++word) {
      uint32_t packed = 0;
      for (int i = 0; i < 4; ++i) {
        const auto integer = static_cast<int32_t>(round_integer(at(4 * word + i) / scale[n]));
        sums[n] += integer;
        packed |= (static_cast<uint32_t>(integer) & 0xffu) << (8 * i);
      }
      panel[place(n % Panel, word)] = packed;
    }
  }
}

// Packs a weight's bfloat16 numbers, two to a word.
template <int Panel, class Place>
void pack_bfloat16(const float* weight, int64_t depth, int64_t columns, int64_t words, uint32_t* out,
                   float* scale, int32_t* sums, Place place) {
  for (int64_t n = 0; n < (columns + Panel - 1) / Panel * Panel; ++n) {
    scale[n] = 1.0f;
    sums[n] = 0;
    uint32_t* panel = out + n / Panel * words * Panel;
    for (int64_t word = 0; word < words; ++word) {
      uint32_t packed = 0;
      for (int i = 0; i < 2; ++i) {
        const int64_t k = 2 * word + i;
        const float x = round_bfloat16(n < columns && k < depth ? weight[k * columns + n] : 0.0f);
        uint32_t bits;
        __builtin_memcpy(&bits, &x, 4);
        packed |= bits >> 16 << (16 * i);
      }
      panel[place(n % Panel, word)] = packed;
    }
  }
}

// 8-bit integers by `Q`; bfloat16 and float32 as every lane type has them.
template <class V, class Q>
struct QuadProducts : Products<V> {
  using Generic = Products<V>;
  using Generic::kPanel;
  using Generic::padded;
  using Generic::W;

  // Rows of integers are padded to 16 bytes.
  static int64_t row_words(int64_t depth, Precision precision) {
    return precision == Precision::kInt8 ? (depth + 15) / 16 * 4
                                         : Generic::row_words(depth, precision);
  }

  static int64_t place(int64_t column, int64_t word) { return word * kPanel + column; }

  static size_t packed_bytes(int64_t depth, int64_t columns, Precision precision) {
    return static_cast<size_t>(row_words(depth, precision) * padded(columns)) * 4;
  }

  static void pack(const float* weight, int64_t depth, int64_t columns, Precision precision,
                   void* panels, float* scale, int32_t* sums) {
    if (precision != Precision::kInt8) {
      Generic::pack(weight, depth, columns, precision, panels, scale, sums);
      return;
    }
    pack_integers<kPanel>(weight, depth, columns, row_words(depth, precision),
                          static_cast<uint32_t*>(panels), scale, sums, place);
  }

  static float convert(const float* x, int64_t depth, Precision precision, float* out) {
    if (precision != Precision::kInt8) return Generic::convert(x, depth, precision, out);
    const auto row = [&](int64_t k) {
      return k < depth ? Blocks<V>::load(x + k, depth - k) : V::set(0);
    };
    auto top = V::set(0);
    auto poison = V::set(0);
    for (int64_t k = 0; k < depth; k += W) {
      top = V::max(top, V::abs(row(k)));
      poison = V::fma(row(k), V::set(0), poison);
    }
    const float largest = Q::largest(top);
    const float scale = (largest > kSmallest ? largest / 127.0f : 1.0f) + V::sum(poison);
    const auto inverse = V::set(1.0f / scale);
    char* bytes = reinterpret_cast<char*>(out);
    for (int64_t k = 0; k < (depth + 15) / 16 * 16; k += W) {
      Q::store_bytes(bytes + k, V::mul(row(k), inverse));
    }
    return scale;
  }

  static void multiply(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                       float* c, int64_t stride) {
    if (w.precision == Precision::kInt8) {
      multiply_words<V, Q>(a, row_scale, rows, row_words(w.depth, w.precision), w, c, stride);
    } else {
      Generic::multiply(a, row_scale, rows, w, c, stride);
    }
  }
};

}  // namespace
}  // namespace streamseg
