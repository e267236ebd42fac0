// Products of small matrices with NEON: smmla multiplies two rows of eight 8-bit integers by two
// columns, bfmmla two rows of four bfloat16 numbers by two columns, into a 2 x 2 matrix of sums.
//
// Weights are packed in groups of two words (64 bits) along the depth, column after column.
//
// bfmmla rounds to odd, not to the nearest, and may round the sum of every two products, so an error is
// at most twice as large as that of a chain of float32; denormal numbers count as zero.
#pragma once

#include "products_neon.h"

namespace streamseg {
namespace {

struct NeonEights {
  using I = int32x4_t;

  static I zero() { return vdupq_n_s32(0); }
  static I multiply(I sum, uint32x4_t a, uint32x4_t b) {
    return vmmlaq_s32(sum, vreinterpretq_s8_u32(a), vreinterpretq_s8_u32(b));
  }
  static float32x4_t floats(float64x2_t sums, const int32_t* columns) {
    return vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_f64(sums), vld1q_s32(columns)));
  }
  static float64x2_t bits(I sum) { return vreinterpretq_f64_s32(sum); }
};

// Rows 2i and 2i + 1 of `Pairs` pairs times `Quarters` times two columns. `next`: distance from the
// first to the second row of a pair, 0 where there is only one row.
template <class D, int Pairs, int Quarters>
void matrix_tile(const uint32_t* a, int64_t next, int64_t words, const uint32_t* panel,
                 const float* row_scale, const float* scale, const int32_t* sums, float* c,
                 int64_t stride, int64_t left) {
  using V = NeonLanes;
  constexpr int W = V::kLanes;
  typename D::I x[Pairs][Quarters];
  for (int i = 0; i < Pairs; ++i) {
    for (int q = 0; q < Quarters; ++q) x[i][q] = D::zero();
  }
  for (int64_t k = 0; k < words; k += 4) {
    uint64x2_t low[Pairs];
    uint64x2_t high[Pairs];
#pragma GCC unroll 4
    for (int i = 0; i < Pairs; ++i) {
      const uint32_t* row = a + 2 * i * next + k;
      const auto first = vreinterpretq_u64_u32(vld1q_u32(row));
      const auto second = vreinterpretq_u64_u32(vld1q_u32(row + next));
      low[i] = vzip1q_u64(first, second);
      high[i] = vzip2q_u64(first, second);
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const uint32_t* group = panel + (k + 2 * half) * 2 * W;
#pragma GCC unroll 4
      for (int q = 0; q < Quarters; ++q) {
        const uint32x4_t b = vld1q_u32(group + 4 * q);
#pragma GCC unroll 4
        for (int i = 0; i < Pairs; ++i) {
          x[i][q] = D::multiply(x[i][q], vreinterpretq_u32_u64(half == 0 ? low[i] : high[i]), b);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Pairs; ++i) {
#pragma GCC unroll 2
    for (int h = 0; h < Quarters / 2; ++h) {
      const auto one = D::bits(x[i][2 * h]);
      const auto two = D::bits(x[i][2 * h + 1]);
      const auto put = [&](float64x2_t row_sums, int row) {
        const auto unit = V::mul(V::set(row_scale[row]), V::load(scale + h * W));
        Blocks<V>::store(c + row * stride + h * W, V::mul(D::floats(row_sums, sums + h * W), unit),
                         left - h * W);
      };
      put(vzip1q_f64(one, two), 2 * i);
      if (next != 0) put(vzip2q_f64(one, two), 2 * i + 1);
    }
  }
}

// c [rows, columns], rows `stride` apart, = a [rows, words] times the packed weight.
template <class D>
void multiply_matrices(const float* a, const float* row_scale, int64_t rows, int64_t words,
                       const Packed& w, float* c, int64_t stride) {
  constexpr int W = NeonLanes::kLanes;
  constexpr int kPairs = 4;
  const auto* bits = reinterpret_cast<const uint32_t*>(a);
  for (int64_t n = 0; n < w.columns; n += 2 * W) {
    const auto* panel = static_cast<const uint32_t*>(w.panels) + n * words;
    const int64_t left = w.columns - n;
    const auto run = [&](auto tile, int64_t i, int64_t next) {
      tile(bits + i * words, next, words, panel, row_scale + i, w.scale + n, w.sums + n,
           c + i * stride + n, stride, left);
    };
    int64_t i = 0;
    for (; i + 2 * kPairs <= rows; i += 2 * kPairs) {
      run(left > W ? matrix_tile<D, kPairs, 4> : matrix_tile<D, kPairs, 2>, i, words);
    }
    for (; i < rows; i += 2) {
      run(left > W ? matrix_tile<D, 1, 4> : matrix_tile<D, 1, 2>, i, i + 1 < rows ? words : 0);
    }
  }
}

// Integers by smmla; bfloat16 and float32 as every lane type has them.
struct NeonEightProducts : QuadProducts<NeonLanes, NeonQuads> {
  using Quads = QuadProducts<NeonLanes, NeonQuads>;

  static int64_t place(int64_t column, int64_t word) {
    return word / 2 * 2 * kPanel + 2 * column + word % 2;
  }

  static void pack(const float* weight, int64_t depth, int64_t columns, Precision precision,
                   void* panels, float* scale, int32_t* sums) {
    if (precision == Precision::kInt8) {
      pack_integers(weight, depth, columns, NeonQuads::kShift, panels, scale, sums, place);
    } else {
      Quads::pack(weight, depth, columns, precision, panels, scale, sums);
    }
  }

  static void pack_shared(const float* weight, int64_t depth, int64_t columns, Precision precision,
                          void* panels, float* scale, int32_t* sums) {
    if (precision == Precision::kInt8) {
      pack_integers(weight, depth, columns, NeonQuads::kShift - 128, panels, scale, sums, place);
    } else {
      Quads::pack_shared(weight, depth, columns, precision, panels, scale, sums);
    }
  }

  static void multiply(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                       float* c, int64_t stride) {
    if (w.precision == Precision::kInt8) {
      multiply_matrices<NeonEights>(a, row_scale, rows, row_words(w.depth, w.precision), w, c, stride);
    } else {
      Quads::multiply(a, row_scale, rows, w, c, stride);
    }
  }
};

}  // namespace
}  // namespace streamseg
