// Matrix products by instructions that multiply several narrow numbers at once and add them to a sum
// of 32 bits: weights and activations are packed along the depth, four 8-bit integers or two bfloat16
// numbers to a word of 32 bits.
//
// `D` supplies the instruction: a register type I of words, kTall (rows of a tile), zero, load, set, dot,
// floats; and for integers kShift (what store_bytes adds to them, for instructions that take
// activations unsigned), largest and store_bytes. A column's `sums` are its integers' sum times the
// shift, which `floats` subtracts.
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

// 8-bit integers by `Q`; bfloat16 and float32 as every lane type has them. Rows of integers are padded
// to `Bytes`.
template <class V, class Q, int Bytes = 16>
struct QuadProducts : Products<V> {
  using Generic = Products<V>;
  using Generic::kPanel;
  using Generic::padded;
  using Generic::W;

  static int64_t row_words(int64_t depth, Precision precision) {
    return precision == Precision::kInt8 ? (depth + Bytes - 1) / Bytes * (Bytes / 4)
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
    pack_integers(weight, depth, columns, Q::kShift, panels, scale, sums, place);
  }

  // Shares are 0 to 255, stored so that `kShift` bytes of them are signed as well.
  static void pack_shared(const float* weight, int64_t depth, int64_t columns, Precision precision,
                          void* panels, float* scale, int32_t* sums) {
    if (precision != Precision::kInt8) {
      Generic::pack_shared(weight, depth, columns, precision, panels, scale, sums);
      return;
    }
    pack_integers(weight, depth, columns, Q::kShift - 128, panels, scale, sums, place);
  }

  // `place(column, word)`: where in its panel a word of a column lies.
  template <class Place>
  static void pack_integers(const float* weight, int64_t depth, int64_t columns, int32_t shift,
                            void* panels, float* scale, int32_t* sums, Place place) {
    const int64_t words = row_words(depth, Precision::kInt8);
    for (int64_t n = 0; n < padded(columns); n += W) {
      auto* panel = static_cast<uint32_t*>(panels) + n / kPanel * words * kPanel;
      const auto unit = Generic::column_scale(weight, depth, columns, n);
      V::store(scale + n, unit);
      auto total = V::set(0);
      for (int64_t word = 0; word < words; ++word) {
        alignas(64) float numbers[4][W];
        for (int i = 0; i < 4; ++i) {
          const int64_t k = 4 * word + i;
          const auto x = k < depth ? Generic::lane(weight, columns, k, n) : V::set(0);
          const auto rounded = Generic::round_lane(V::div(x, unit));
          total = V::add(total, rounded);
          V::store(numbers[i], rounded);
        }
        for (int j = 0; j < W; ++j) {
          const auto byte = [&](int i) {
            return static_cast<uint32_t>(static_cast<int32_t>(numbers[i][j])) & 0xffu;
          };
          panel[place(n % kPanel + j, word)] = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
        }
      }
      alignas(64) float sum[W];
      V::store(sum, total);
      for (int j = 0; j < W; ++j) sums[n + j] = static_cast<int32_t>(sum[j]) * shift;
    }
  }

  // Zeros in words [begin, end) of a row.
  static void clear(float* row, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row[i] = 0;
  }

  static float shares(const float* scores, int64_t count, float top, Precision precision,
                      float* out) {
    if (precision != Precision::kInt8) {
      return Generic::shares(scores, count, top, precision, out);
    }
    char* bytes = reinterpret_cast<char*>(out);
    auto total = V::set(0);
    for (int64_t k = 0; k < (count + 15) / 16 * 16; k += W) {
      const auto share = V::mul(Generic::share(scores + k, top), V::set(kShares));
      const auto rounded = Generic::round_lane(share);
      total = V::add(total, rounded);
      Q::store_bytes(bytes + k, V::sub(rounded, V::set(128)));
    }
    clear(out, (count + 15) / 16 * 4, row_words(count, precision));
    return V::sum(total);
  }

  // Scale of a row whose largest integer becomes `integer`. NaN if a number is not finite.
  static float row_scale(const float* x, int64_t depth, float integer) {
    auto top = V::set(0);
    auto poison = V::set(0);
    for (int64_t k = 0; k < depth; k += W) {
      const auto row = Blocks<V>::load(x + k, depth - k);
      top = V::max(top, V::abs(row));
      poison = V::fma(row, V::set(0), poison);
    }
    const float largest = Q::largest(top);
    return (largest > kSmallest ? largest / integer : 1.0f) + V::sum(poison);
  }

  static float convert(const float* x, int64_t depth, Precision precision, float* out) {
    if (precision != Precision::kInt8) return Generic::convert(x, depth, precision, out);
    const float scale = row_scale(x, depth, 127.0f);
    const auto inverse = V::set(1.0f / scale);
    char* bytes = reinterpret_cast<char*>(out);
    for (int64_t k = 0; k < 4 * row_words(depth, precision); k += W) {
      const auto row = k < depth ? Blocks<V>::load(x + k, depth - k) : V::set(0);
      Q::store_bytes(bytes + k, V::mul(row, inverse));
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
