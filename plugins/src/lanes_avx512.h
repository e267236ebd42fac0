// Sixteen channels at a time with AVX-512 (F, DQ, BW, VL).
#pragma once

#include <immintrin.h>

#include "recurrence.h"

namespace streamseg {
namespace {

struct Avx512Lanes {
  using T = float;
  using R = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kGroup = 16;
  static constexpr int kAbreast = 4;
  static constexpr bool kPermutes = true;
  static constexpr bool kTransposes = true;

  static R set(T x) { return _mm512_set1_ps(x); }
  static R load(const T* p) { return _mm512_loadu_ps(p); }
  static void store(T* p, R x) { _mm512_storeu_ps(p, x); }
  static __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
  static R load_part(const T* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static void store_part(T* p, R x, int count) { _mm512_mask_storeu_ps(p, first(count), x); }
  static R add(R a, R b) { return _mm512_add_ps(a, b); }
  static R sub(R a, R b) { return _mm512_sub_ps(a, b); }
  static R mul(R a, R b) { return _mm512_mul_ps(a, b); }
  static R div(R a, R b) { return _mm512_div_ps(a, b); }
  static R fma(R a, R b, R c) { return _mm512_fmadd_ps(a, b, c); }
  // Returns b if either is NaN: a is the constant.
  static R max(R a, R b) { return _mm512_max_ps(a, b); }
  static R abs(R x) { return _mm512_abs_ps(x); }
  static T sum(R x) { return _mm512_reduce_add_ps(x); }

  // Sixteen rows of sixteen numbers, in place.
  static void transpose(R (&x)[kLanes]) {
    R y[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i += 2) {  // pairs of rows, element by element
      y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
      y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i += 4) {  // four rows: x[i + j] has column j of every quarter
      x[i] = low_pairs(y[i], y[i + 2]);
      x[i + 1] = high_pairs(y[i], y[i + 2]);
      x[i + 2] = low_pairs(y[i + 1], y[i + 3]);
      x[i + 3] = high_pairs(y[i + 1], y[i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {  // quarters
      const R even0 = _mm512_shuffle_f32x4(x[j], x[4 + j], 0x88);
      const R odd0 = _mm512_shuffle_f32x4(x[j], x[4 + j], 0xdd);
      const R even1 = _mm512_shuffle_f32x4(x[8 + j], x[12 + j], 0x88);
      const R odd1 = _mm512_shuffle_f32x4(x[8 + j], x[12 + j], 0xdd);
      x[j] = _mm512_shuffle_f32x4(even0, even1, 0x88);
      x[4 + j] = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
      x[8 + j] = _mm512_shuffle_f32x4(even0, even1, 0xdd);
      x[12 + j] = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
    }
  }

  static R gather(const T* p, const int32_t* index) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(index), p, 4);
  }
  // table[index[i] - base] for every lane; all within sixteen entries.
  static R permute(R table, const int32_t* index, int32_t base) {
    const __m512i where =
        _mm512_sub_epi32(_mm512_loadu_si512(index), _mm512_set1_epi32(base));
    return _mm512_permutexvar_ps(where, table);
  }
  static void keep_larger(R x, R label, R& best, R& best_label) {
    const __mmask16 larger = _mm512_cmp_ps_mask(x, best, _CMP_GT_OQ);
    best = _mm512_mask_mov_ps(best, larger, x);
    best_label = _mm512_mask_mov_ps(best_label, larger, label);
  }

  // 2^t for finite t <= 0; 0 below the range of float32.
  static R exp2(R t) {
    const R shifted = _mm512_add_ps(t, set(kMagic));
    const R whole = _mm512_sub_ps(shifted, set(kMagic));
    return exp2_sum(shifted, whole, _mm512_sub_ps(t, whole));
  }

  static R exp(R x) {
    x = _mm512_max_ps(set(-87.0f), x);
    x = _mm512_min_ps(set(88.0f), x);
    const R log2e = set(1.44269502f);
    const R shifted = _mm512_fmadd_ps(x, log2e, set(kMagic));
    const R whole = _mm512_sub_ps(shifted, set(kMagic));
    const R r = _mm512_fmadd_ps(x, set(1.92596303e-8f), _mm512_fmsub_ps(x, log2e, whole));
    return exp2_sum(shifted, whole, r);
  }

  static R twice_atanh(R s) {
    const R v = _mm512_mul_ps(s, s);
    R p = set(0.21791792f);
    p = _mm512_fmadd_ps(p, v, set(0.1714785f));
    p = _mm512_fmadd_ps(p, v, set(0.22301500f));
    p = _mm512_fmadd_ps(p, v, set(0.28568396f));
    p = _mm512_fmadd_ps(p, v, set(0.40000053f));
    p = _mm512_fmadd_ps(p, v, set(0.66666666f));
    return _mm512_fmadd_ps(s, set(2.0f), _mm512_mul_ps(s, _mm512_mul_ps(v, p)));
  }

  static bool can_decay_abreast(R product) {
    return _mm512_cmp_ps_mask(product, set(1.15292150e18f), _CMP_NLT_UQ) == 0;
  }

  // 2^(step rate) for several registers of rates, at most 0, interleaved. One after another, their
  // chains of dependent instructions would fill the processor's queues before it could run several at
  // once. The products are formed twice, inside other operations: to round them to sixteenths, and for
  // the remainder, which counts the product's own rounding error; so the product must be small enough
  // for the cube of that error. vscalefps takes the place of a shift, an addition and the limit that
  // these would need.
  static void decay_abreast(R step, const T* rates, R (&a)[kAbreast]) {
    R rate[kAbreast];
    R root[kAbreast];
    R whole[kAbreast];
    R p[kAbreast];
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) rate[k] = load(rates + k * kLanes);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) root[k] = _mm512_fmadd_ps(step, rate[k], set(kMagic));
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) whole[k] = _mm512_sub_ps(root[k], set(kMagic));
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) a[k] = _mm512_fmsub_ps(step, rate[k], whole[k]);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) root[k] = root_of(root[k]);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) whole[k] = _mm512_scalef_ps(root[k], whole[k]);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) {
      p[k] = _mm512_fmadd_ps(set(0.05550347f), a[k], set(0.24023428f));
    }
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) p[k] = _mm512_fmadd_ps(p[k], a[k], set(0.693147182f));
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) p[k] = _mm512_mul_ps(p[k], a[k]);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) a[k] = _mm512_fmadd_ps(whole[k], p[k], whole[k]);
  }

 private:
  static R low_pairs(R a, R b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static R high_pairs(R a, R b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }

  // 1.5 * 2^19: adding it rounds to sixteenths and leaves their number n in the low bits.
  static constexpr float kMagic = 786432.0f;

  // 2^(n mod 16 / 16).
  static R root_of(R shifted) {
    alignas(64) static constexpr float table[16] = {
        1.0f,         1.044273782f, 1.090507733f, 1.138788635f, 1.189207115f, 1.241857812f,
        1.296839555f, 1.354255547f, 1.414213562f, 1.476826146f, 1.542210825f, 1.610490332f,
        1.681792831f, 1.756252160f, 1.834008086f, 1.915206561f};
    return _mm512_permutexvar_ps(_mm512_castps_si512(shifted), _mm512_load_ps(table));
  }

  // (2^r - 1) / r for |r| <= 1/32. Its constant is exactly log(2), so 1 - 2^t keeps its relative
  // accuracy for small t.
  static R cubic(R r) {
    const R p = _mm512_fmadd_ps(set(0.05550347f), r, set(0.24023428f));
    return _mm512_fmadd_ps(p, r, set(0.693147182f));
  }

  // 2^(whole + r), |r| <= 1/32. With whole = n / 16: 2^(n mod 16 / 16) from a table, 2^(n div 16) by
  // vscalefps, 2^r by a cubic. `shifted` holds n in its low bits.
  static R exp2_sum(R shifted, R whole, R r) {
    const R scale = _mm512_scalef_ps(root_of(shifted), whole);
    return _mm512_fmadd_ps(scale, _mm512_mul_ps(cubic(r), r), scale);
  }
};

}  // namespace
}  // namespace streamseg
