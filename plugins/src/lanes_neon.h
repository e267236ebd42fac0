// Four channels at a time with NEON on AArch64.
#pragma once

#include <arm_neon.h>

#include "recurrence.h"

namespace streamseg {
namespace {

struct NeonLanes {
  using T = float;
  using R = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kGroup = 8;
  static constexpr int kAbreast = 1;
  static constexpr bool kPermutes = false;
  static constexpr bool kTransposes = false;

  static R set(T x) { return vdupq_n_f32(x); }
  static R load(const T* p) { return vld1q_f32(p); }
  static void store(T* p, R x) { vst1q_f32(p, x); }
  static R load_part(const T* p, int count) {
    T lanes[4] = {0, 0, 0, 0};
    for (int i = 0; i < count; ++i) lanes[i] = p[i];
    return vld1q_f32(lanes);
  }
  static void store_part(T* p, R x, int count) {
    T lanes[4];
    vst1q_f32(lanes, x);
    for (int i = 0; i < count; ++i) p[i] = lanes[i];
  }
  static R add(R a, R b) { return vaddq_f32(a, b); }
  static R sub(R a, R b) { return vsubq_f32(a, b); }
  static R mul(R a, R b) { return vmulq_f32(a, b); }
  static R div(R a, R b) { return vdivq_f32(a, b); }
  static R fma(R a, R b, R c) { return vfmaq_f32(c, a, b); }
  static R max(R a, R b) { return vmaxq_f32(a, b); }
  static R abs(R x) { return vabsq_f32(x); }
  static T sum(R x) { return vaddvq_f32(x); }

  static R gather(const T* p, const int32_t* index) {
    const T lanes[4] = {p[index[0]], p[index[1]], p[index[2]], p[index[3]]};
    return vld1q_f32(lanes);
  }
  static void keep_larger(R x, R label, R& best, R& best_label) {
    const uint32x4_t larger = vcgtq_f32(x, best);
    best = vbslq_f32(larger, x, best);
    best_label = vbslq_f32(larger, label, best_label);
  }

  static R exp2(R t) { return exp2_sum<false>(vmaxq_f32(set(-126.0f), t), t); }

  static R exp(R x) {
    x = vminq_f32(set(88.0f), vmaxq_f32(set(-87.0f), x));
    const R log2e = set(1.44269502f);
    const R t = vmulq_f32(x, log2e);
    const R rest = vfmaq_f32(vnegq_f32(t), x, log2e);
    return exp2_sum<true>(t, vfmaq_f32(rest, x, set(1.92596303e-8f)));
  }

  static R twice_atanh(R s) {
    const R v = vmulq_f32(s, s);
    R p = set(0.21791792f);
    p = vfmaq_f32(set(0.1714785f), p, v);
    p = vfmaq_f32(set(0.22301500f), p, v);
    p = vfmaq_f32(set(0.28568396f), p, v);
    p = vfmaq_f32(set(0.40000053f), p, v);
    p = vfmaq_f32(set(0.66666666f), p, v);
    return vfmaq_f32(vmulq_f32(s, vmulq_f32(v, p)), s, set(2.0f));
  }

 private:
  // 2^(t + extra), extra counted when `Extra`; 1 exactly at 0.
  template <bool Extra>
  static R exp2_sum(R t, R extra) {
    const R magic = set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const R shifted = vaddq_f32(t, magic);
    R r = vsubq_f32(t, vsubq_f32(shifted, magic));
    if (Extra) r = vaddq_f32(r, extra);
    R p = set(1.54722947e-4f);
    p = vfmaq_f32(set(1.33913371e-3f), p, r);
    p = vfmaq_f32(set(9.61802100e-3f), p, r);
    p = vfmaq_f32(set(5.55035882e-2f), p, r);
    p = vfmaq_f32(set(2.40226512e-1f), p, r);
    p = vfmaq_f32(set(0.693147182f), p, r);
    p = vfmaq_f32(set(1.0f), p, r);
    const int32x4_t exponent = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), exponent));
  }
};

}  // namespace
}  // namespace streamseg
