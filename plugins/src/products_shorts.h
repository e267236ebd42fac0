// 16-bit integers, for the small products of int8 layers: two to a word of 32 bits, where an
// instruction multiplies such pairs and adds both products to a sum.
//
// A row of activations has one scale and integers up to 8191; a column of weights takes the finest
// scale with which no sum can leave 32 bits. Both are finer than bfloat16 unless a row's largest number
// is some forty times the typical one. The instruction does twice the work of a float32 one.
#pragma once

#include "products_words.h"

namespace streamseg {
namespace {

constexpr float kShortTop = 8191.0f;      // of an activation
constexpr float kShortSum = 260000.0f;    // of a column without signs: 8191 times it stays below 2^31
constexpr float kShortWeight = 32767.0f;  // of a weight

// `S` supplies the instruction, as in products_words.h, and store_shorts.
template <class Base, class V, class S>
struct ShortProducts : Base {
  using R = typename V::R;
  using Base::kPanel;
  using Base::lane;
  using Base::padded;
  using Base::W;
  static constexpr Precision kSmall = Precision::kInt16;

  // Rows are padded to 16 numbers.
  static int64_t row_words(int64_t depth, Precision precision) {
    return precision == Precision::kInt16 ? (depth + 15) / 16 * 8 : Base::row_words(depth, precision);
  }

  static size_t packed_bytes(int64_t depth, int64_t columns, Precision precision) {
    return static_cast<size_t>(row_words(depth, precision) * padded(columns)) * 4;
  }

  // Scales of one lane of columns. NaN if a number is not finite.
  static R short_scale(const float* weight, int64_t depth, int64_t columns, int64_t n) {
    R top = V::set(kSmallest);
    R sum = V::set(0);
    R poison = V::set(0);
    for (int64_t k = 0; k < depth; ++k) {
      const R x = lane(weight, columns, k, n);
      top = V::max(top, V::abs(x));
      sum = V::add(sum, V::abs(x));
      poison = V::fma(x, V::set(0), poison);
    }
    // Rounding adds half a unit for every weight.
    const R room = V::set(kShortSum - static_cast<float>(depth) / 2);
    return V::add(V::max(V::div(top, V::set(kShortWeight)), V::div(sum, room)), poison);
  }

  static void pack(const float* weight, int64_t depth, int64_t columns, Precision precision,
                   void* panels, float* scale, int32_t* sums) {
    if (precision != Precision::kInt16) {
      Base::pack(weight, depth, columns, precision, panels, scale, sums);
      return;
    }
    const int64_t words = row_words(depth, precision);
    for (int64_t n = 0; n < padded(columns); n += W) {
      auto* out = static_cast<uint32_t*>(panels) + n / kPanel * words * kPanel + n % kPanel;
      const R unit = short_scale(weight, depth, columns, n);
      V::store(scale + n, unit);
      for (int j = 0; j < W; ++j) sums[n + j] = 0;
      for (int64_t word = 0; word < words; ++word, out += kPanel) {
        alignas(64) float numbers[2][W];
        for (int i = 0; i < 2; ++i) {
          const int64_t k = 2 * word + i;
          const R x = k < depth ? lane(weight, columns, k, n) : V::set(0);
          V::store(numbers[i], Base::round_lane(V::div(x, unit)));
        }
        for (int j = 0; j < W; ++j) {
          const auto half = [&](int i) {
            return static_cast<uint32_t>(static_cast<int32_t>(numbers[i][j])) & 0xffffu;
          };
          out[j] = half(0) | half(1) << 16;
        }
      }
    }
  }

  static float convert(const float* x, int64_t depth, Precision precision, float* out) {
    if (precision != Precision::kInt16) return Base::convert(x, depth, precision, out);
    const float scale = Base::row_scale(x, depth, kShortTop);
    const R inverse = V::set(1.0f / scale);
    char* shorts = reinterpret_cast<char*>(out);
    for (int64_t k = 0; k < 2 * row_words(depth, precision); k += W) {
      const R row = k < depth ? Blocks<V>::load(x + k, depth - k) : V::set(0);
      S::store_shorts(shorts + 2 * k, V::mul(row, inverse));
    }
    return scale;
  }

  static void multiply(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                       float* c, int64_t stride) {
    if (w.precision == Precision::kInt16) {
      multiply_words<V, S>(a, row_scale, rows, row_words(w.depth, w.precision), w, c, stride);
    } else {
      Base::multiply(a, row_scale, rows, w, c, stride);
    }
  }
};

}  // namespace
}  // namespace streamseg
