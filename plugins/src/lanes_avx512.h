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

  static R exp2(R t) { return exp2_sum<false>(_mm512_max_ps(set(-126.0f), t), t); }

  static R exp(R x) {
    x = _mm512_max_ps(set(-87.0f), x);
    x = _mm512_min_ps(set(88.0f), x);
    const R log2e = set(1.44269502f);
    const R t = _mm512_mul_ps(x, log2e);
    const R extra = _mm512_fmadd_ps(x, set(1.92596303e-8f), _mm512_fmsub_ps(x, log2e, t));
    return exp2_sum<true>(t, extra);
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

  // 2^t of several registers, interleaved. One after another, their chains of dependent
  // instructions would fill the processor's queues before it could run several at once.
  static void exp2_abreast(R (&t)[kAbreast]) {
    const R magic = set(786432.0f);
    R shifted[kAbreast];
    R scale[kAbreast];
    R p[kAbreast];
#pragma GCC unroll 8
    for (R& x : t) x = _mm512_max_ps(set(-126.0f), x);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) shifted[k] = _mm512_add_ps(t[k], magic);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) p[k] = _mm512_sub_ps(shifted[k], magic);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) t[k] = _mm512_sub_ps(t[k], p[k]);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) scale[k] = scale_of(_mm512_castps_si512(shifted[k]));
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) {
      p[k] = _mm512_fmadd_ps(set(0.05550347f), t[k], set(0.24023428f));
    }
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) p[k] = _mm512_fmadd_ps(p[k], t[k], set(0.693147182f));
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) p[k] = _mm512_mul_ps(p[k], t[k]);
#pragma GCC unroll 8
    for (int k = 0; k < kAbreast; ++k) t[k] = _mm512_fmadd_ps(scale[k], p[k], scale[k]);
  }

 private:
  // 2^(n / 16) for the integer n that `magic` left in the low bits.
  static R scale_of(__m512i n) {
    // 2^(j/16) as bits, less j << 19, which adding n << 19 puts back.
    alignas(64) static constexpr uint32_t table[16] = {
        0x3F800000u, 0x3F7DAAC3u, 0x3F7B95C2u, 0x3F79C3D3u, 0x3F7837F0u, 0x3F76F532u,
        0x3F75FED7u, 0x3F75583Fu, 0x3F7504F3u, 0x3F7508A4u, 0x3F75672Au, 0x3F76248Cu,
        0x3F7744FDu, 0x3F78CCDFu, 0x3F7AC0C7u, 0x3F7D257Du};
    const __m512i root = _mm512_permutexvar_epi32(n, _mm512_load_si512(table));
    return _mm512_castsi512_ps(_mm512_add_epi32(root, _mm512_slli_epi32(n, 19)));
  }

  // 2^(t + extra), extra counted when `Extra`. With t = n / 16 + r: 2^(n mod 16 / 16) from a table,
  // 2^(n div 16) by adding to the exponent, 2^r by a cubic whose linear term is exactly log(2),
  // so 1 - 2^t keeps its relative accuracy for small t.
  template <bool Extra>
  static R exp2_sum(R t, R extra) {
    const R magic = set(786432.0f);  // 1.5 * 2^19: adding it rounds to sixteenths
    const R shifted = _mm512_add_ps(t, magic);
    R r = _mm512_sub_ps(t, _mm512_sub_ps(shifted, magic));
    if (Extra) r = _mm512_add_ps(r, extra);
    const R scale = scale_of(_mm512_castps_si512(shifted));
    R p = _mm512_fmadd_ps(set(0.05550347f), r, set(0.24023428f));
    p = _mm512_fmadd_ps(p, r, set(0.693147182f));
    return _mm512_fmadd_ps(scale, _mm512_mul_ps(p, r), scale);
  }
};

}  // namespace
}  // namespace streamseg
