// bfloat16 numbers with NEON: bfmmla.
#pragma once

#include "products_neonmatrix.h"

namespace streamseg {
namespace {

struct NeonFours {
  using I = float32x4_t;

  static I zero() { return vdupq_n_f32(0); }
  static I multiply(I sum, uint32x4_t a, uint32x4_t b) {
    return vbfmmlaq_f32(sum, vreinterpretq_bf16_u32(a), vreinterpretq_bf16_u32(b));
  }
  static float32x4_t floats(float64x2_t sums, const int32_t*) { return vreinterpretq_f32_f64(sums); }
  static float64x2_t bits(I sum) { return vreinterpretq_f64_f32(sum); }
};

struct NeonFourProducts : NeonEightProducts {
  using Eights = NeonEightProducts;

  // Rows of bfloat16 numbers are padded to 8 of them.
  static int64_t row_words(int64_t depth, Precision precision) {
    return precision == Precision::kBfloat16 ? (depth + 7) / 8 * 4
                                             : Eights::row_words(depth, precision);
  }

  static size_t packed_bytes(int64_t depth, int64_t columns, Precision precision) {
    return static_cast<size_t>(row_words(depth, precision) * padded(columns)) * 4;
  }

  // Eight numbers from two registers.
  static uint16x8_t round_pair(float32x4_t low, float32x4_t high) {
    return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high));
  }

  static void pack(const float* weight, int64_t depth, int64_t columns, Precision precision,
                   void* panels, float* scale, int32_t* sums) {
    if (precision != Precision::kBfloat16) {
      Eights::pack(weight, depth, columns, precision, panels, scale, sums);
      return;
    }
    const int64_t words = row_words(depth, precision);
    for (int64_t n = 0; n < padded(columns); n += W) {
      auto* panel = static_cast<uint32_t*>(panels) + n / kPanel * words * kPanel;
      vst1q_f32(scale + n, vdupq_n_f32(1.0f));
      vst1q_s32(sums + n, vdupq_n_s32(0));
      const auto row = [&](int64_t k) {
        return k < depth ? lane(weight, columns, k, n) : vdupq_n_f32(0);
      };
      for (int64_t k = 0; k < 2 * words; k += 4) {
        // Columns 0 to 3 of rows k and k + 2, and of rows k + 1 and k + 3.
        const uint16x8x2_t rows = {round_pair(row(k), row(k + 2)), round_pair(row(k + 1), row(k + 3))};
        const auto first = vreinterpretq_u32_u16(vzip1q_u16(rows.val[0], rows.val[1]));
        const auto second = vreinterpretq_u32_u16(vzip2q_u16(rows.val[0], rows.val[1]));
        vst2q_u32(panel + place(n % kPanel, k / 2), {first, second});
      }
    }
  }

  static void pack_shared(const float* weight, int64_t depth, int64_t columns, Precision precision,
                          void* panels, float* scale, int32_t* sums) {
    if (precision == Precision::kBfloat16) {
      pack(weight, depth, columns, precision, panels, scale, sums);
    } else {
      Eights::pack_shared(weight, depth, columns, precision, panels, scale, sums);
    }
  }

  static float shares(const float* scores, int64_t count, float top, Precision precision,
                      float* out) {
    if (precision != Precision::kBfloat16) {
      return Eights::shares(scores, count, top, precision, out);
    }
    char* bytes = reinterpret_cast<char*>(out);
    float32x4_t total = vdupq_n_f32(0);
    for (int64_t k = 0; k < count; k += 8) {
      const uint16x8_t halves = round_pair(share(scores + k, top), share(scores + k + 4, top));
      __builtin_memcpy(bytes + 2 * k, &halves, 16);
      total = vaddq_f32(total, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16)));
      total = vaddq_f32(total, vreinterpretq_f32_u32(vshll_high_n_u16(halves, 16)));
    }
    return vaddvq_f32(total);
  }

  static float convert(const float* x, int64_t depth, Precision precision, float* out) {
    if (precision != Precision::kBfloat16) return Eights::convert(x, depth, precision, out);
    char* bytes = reinterpret_cast<char*>(out);
    const auto row = [&](int64_t k) {
      return k < depth ? Blocks<NeonLanes>::load(x + k, depth - k) : vdupq_n_f32(0);
    };
    for (int64_t k = 0; k < depth; k += 8) {
      const uint16x8_t halves = round_pair(row(k), row(k + 4));
      __builtin_memcpy(bytes + 2 * k, &halves, 16);
    }
    return 1.0f;
  }

  static void multiply(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                       float* c, int64_t stride) {
    if (w.precision == Precision::kBfloat16) {
      multiply_matrices<NeonFours>(a, row_scale, rows, row_words(w.depth, w.precision), w, c, stride);
    } else {
      Eights::multiply(a, row_scale, rows, w, c, stride);
    }
  }
};

inline uint64_t read_ticks() {
  uint64_t ticks;
  __asm__ volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(ticks) : : "memory");
  return ticks;
}

// Ticks of many independent calls of `step`, the least of several attempts.
template <class Step>
uint64_t least_ticks(Step step) {
  uint64_t least = ~uint64_t{0};
  for (int attempt = 0; attempt < 8; ++attempt) {
    float32x4_t sums[12];
    for (auto& sum : sums) sum = vdupq_n_f32(0);
    const uint64_t start = read_ticks();
    for (int i = 0; i < 2048; ++i) {
#pragma GCC unroll 12
      for (auto& sum : sums) {
        sum = step(sum);
        __asm__ volatile("" : "+w"(sum));
      }
    }
    const uint64_t taken = read_ticks() - start;
    least = taken < least ? taken : least;
  }
  return least;
}

// Whether this processor multiplies bfloat16 numbers faster than float32 numbers: bfmmla does the
// work of four fmla. Ticks may be as long as 50 ns; takes some 200 microseconds.
inline bool fours_are_fast() {
  const float32x4_t one = vdupq_n_f32(1.0f);
  const bfloat16x8_t halves = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(one), one);
  const auto fours = [&](float32x4_t sum) { return vbfmmlaq_f32(sum, halves, halves); };
  const auto floats = [&](float32x4_t sum) { return vfmaq_f32(sum, one, one); };
  return least_ticks(fours) < 4 * least_ticks(floats);
}

}  // namespace
}  // namespace streamseg
