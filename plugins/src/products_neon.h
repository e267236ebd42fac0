// 8-bit integers with NEON's dot products: sdot, which takes both signed.
#pragma once

#include <arm_neon.h>

#include "lanes_neon.h"
#include "products_words.h"

namespace streamseg {
namespace {

struct NeonQuads {
  using I = int32x4_t;
  static constexpr int kTall = 8;
  static constexpr int kShift = 0;

  static I zero() { return vdupq_n_s32(0); }
  static I load(const uint32_t* p) { return vreinterpretq_s32_u32(vld1q_u32(p)); }
  static I set(uint32_t word) { return vdupq_n_s32(static_cast<int32_t>(word)); }
  static I dot(I sum, I a, I b) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
  }
  static float32x4_t floats(I sum, const int32_t* columns) {
    return vcvtq_f32_s32(vsubq_s32(sum, vld1q_s32(columns)));
  }

  static float largest(float32x4_t x) { return vmaxvq_f32(x); }
  // Rounded to the nearest integer.
  static void store_bytes(char* p, float32x4_t x) {
    const int16x4_t words = vmovn_s32(vcvtnq_s32_f32(x));
    const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
    __builtin_memcpy(p, &bytes, 4);
  }
};

}  // namespace
}  // namespace streamseg
