// Matrix products with AVX-512's own instructions: vdpbf16ps on pairs of bfloat16 numbers, vpdpbusd on
// quads of 8-bit integers. Activations are shifted by 128 to be unsigned; the shift times a column's
// sum of weights is subtracted afterwards.
#pragma once

#include <immintrin.h>

#include "lanes_avx512.h"
#include "products.h"

namespace streamseg {
namespace {

struct Avx512Products : Products<Avx512Lanes> {
  using Generic = Products<Avx512Lanes>;
  static constexpr int kTall = 10;

  static int64_t per_word(Precision precision) {
    return precision == Precision::kFloat32 ? 1 : precision == Precision::kBfloat16 ? 2 : 4;
  }

  static int64_t row_words(int64_t depth, Precision precision) {
    return precision == Precision::kFloat32 ? depth : (depth + 15) / 16 * 16 / per_word(precision);
  }

  static size_t packed_bytes(int64_t depth, int64_t columns, Precision precision) {
    return static_cast<size_t>(row_words(depth, precision) * padded(columns)) * 4;
  }

  // The generic layout, [depth, 32] a panel, with 2 or 4 rows to a word.
  static void pack(const float* weight, int64_t depth, int64_t columns, Precision precision,
                   void* panels, float* scale, int32_t* sums) {
    if (precision == Precision::kFloat32) {
      Generic::pack(weight, depth, columns, precision, panels, scale, sums);
      return;
    }
    const int64_t words = row_words(depth, precision);
    const int64_t group = per_word(precision);
    const int bits = 32 / static_cast<int>(group);
    auto* out = static_cast<uint32_t*>(panels);
    for (int64_t n0 = 0; n0 < columns; n0 += kPanel, out += words * kPanel) {
      for (int64_t j = 0; j < kPanel; ++j) {
        const int64_t n = n0 + j;
        const auto at = [&](int64_t k) {
          return n < columns && k < depth ? weight[k * columns + n] : 0.0f;
        };
        float top = 0;
        for (int64_t k = 0; k < depth; ++k) top = __builtin_fabsf(at(k)) > top ? __builtin_fabsf(at(k)) : top;
        scale[n] = precision == Precision::kInt8 && top > 0 ? top / 127.0f : 1.0f;
        sums[n] = 0;
        for (int64_t word = 0; word < words; ++word) {
          uint32_t packed = 0;
          for (int64_t i = 0; i < group; ++i) {
            const float x = at(word * group + i);
            uint32_t part;
            if (precision == Precision::kInt8) {
              const auto integer = static_cast<int32_t>(round_integer(x / scale[n]));
              sums[n] += integer;
              part = static_cast<uint32_t>(integer) & 0xffu;
            } else {
              const float rounded = round_bfloat16(x);
              __builtin_memcpy(&part, &rounded, 4);
              part >>= 16;
            }
            packed |= part << (bits * static_cast<int>(i));
          }
          out[word * kPanel + j] = packed;
        }
      }
    }
  }

  static __m512 load_row(const float* x, int64_t left) {
    return left >= W ? _mm512_loadu_ps(x) : Avx512Lanes::load_part(x, static_cast<int>(left));
  }

  static float convert(const float* x, int64_t depth, Precision precision, float* out) {
    if (precision == Precision::kFloat32) return Generic::convert(x, depth, precision, out);
    char* bytes = reinterpret_cast<char*>(out);
    if (precision == Precision::kBfloat16) {
      for (int64_t k = 0; k < depth; k += W) {
        const __m256bh halves = _mm512_cvtneps_pbh(load_row(x + k, depth - k));
        __builtin_memcpy(bytes + 2 * k, &halves, 32);
      }
      return 1.0f;
    }
    __m512 top = _mm512_setzero_ps();
    __m512 poison = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k += W) {
      const __m512 v = load_row(x + k, depth - k);
      top = _mm512_max_ps(top, _mm512_abs_ps(v));
      poison = _mm512_fmadd_ps(v, _mm512_setzero_ps(), poison);
    }
    const float largest = _mm512_reduce_max_ps(top);
    const float scale = (largest > kSmallest ? largest / 127.0f : 1.0f) + _mm512_reduce_add_ps(poison);
    const __m512 inverse = _mm512_set1_ps(1.0f / scale);
    for (int64_t k = 0; k < depth; k += W) {
      const __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(load_row(x + k, depth - k), inverse));
      const __m128i shifted =
          _mm512_cvtepi32_epi8(_mm512_add_epi32(integers, _mm512_set1_epi32(128)));
      __builtin_memcpy(bytes + k, &shifted, 16);
    }
    return scale;
  }

  template <int Rows, bool Integers>
  static void tile(const uint32_t* a, int64_t words, const uint32_t* panel, const float* row_scale,
                   const float* scale, const int32_t* sums, float* c, int64_t stride, int64_t left) {
    __m512i x[Rows][2];
    for (int i = 0; i < Rows; ++i) x[i][0] = x[i][1] = _mm512_setzero_si512();
    for (int64_t k = 0; k < words; ++k) {
      const __m512i b[2] = {_mm512_loadu_si512(panel + k * kPanel),
                            _mm512_loadu_si512(panel + k * kPanel + W)};
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const __m512i v = _mm512_set1_epi32(static_cast<int>(a[i * words + k]));
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          if constexpr (Integers) {
            x[i][h] = _mm512_dpbusd_epi32(x[i][h], v, b[h]);
          } else {
            x[i][h] = _mm512_castps_si512(_mm512_dpbf16_ps(
                _mm512_castsi512_ps(x[i][h]), (__m512bh)v, (__m512bh)b[h]));
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        if (left <= h * W) continue;
        __m512 sum = _mm512_castsi512_ps(x[i][h]);
        if constexpr (Integers) {
          const __m512i shift = _mm512_slli_epi32(_mm512_loadu_si512(sums + h * W), 7);
          sum = _mm512_mul_ps(
              _mm512_cvtepi32_ps(_mm512_sub_epi32(x[i][h], shift)),
              _mm512_mul_ps(_mm512_set1_ps(row_scale[i]), _mm512_loadu_ps(scale + h * W)));
        }
        Blocks<Avx512Lanes>::store(c + i * stride + h * W, sum, left - h * W);
      }
    }
  }

  template <bool Integers>
  static void multiply_words(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                             float* c, int64_t stride) {
    const auto* words = reinterpret_cast<const uint32_t*>(a);
    const int64_t count = row_words(w.depth, w.precision);
    for (int64_t n = 0; n < w.columns; n += kPanel) {
      const auto* panel = static_cast<const uint32_t*>(w.panels) + n * count;
      const int64_t left = w.columns - n;
      int64_t i = 0;
      for (; i + kTall <= rows; i += kTall) {
        tile<kTall, Integers>(words + i * count, count, panel, row_scale + i, w.scale + n, w.sums + n,
                              c + i * stride + n, stride, left);
      }
      for (; i < rows; ++i) {
        tile<1, Integers>(words + i * count, count, panel, row_scale + i, w.scale + n, w.sums + n,
                          c + i * stride + n, stride, left);
      }
    }
  }

  static void multiply(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                       float* c, int64_t stride) {
    if (w.precision == Precision::kInt8) {
      multiply_words<true>(a, row_scale, rows, w, c, stride);
    } else if (w.precision == Precision::kBfloat16) {
      multiply_words<false>(a, row_scale, rows, w, c, stride);
    } else {
      Generic::multiply(a, row_scale, rows, w, c, stride);
    }
  }
};

}  // namespace
}  // namespace streamseg
