// Eight channels at a time with AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include "recurrence.h"

namespace streamseg {
namespace {

struct Avx2Lanes {
  using T = float;
  using R = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kGroup = 8;
  static constexpr int kAbreast = 1;
  static constexpr bool kPermutes = true;
  static constexpr bool kTransposes = false;

  static R set(T x) { return _mm256_set1_ps(x); }
  static R load(const T* p) { return _mm256_loadu_ps(p); }
  static void store(T* p, R x) { _mm256_storeu_ps(p, x); }
  static __m256i first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static R load_part(const T* p, int count) { return _mm256_maskload_ps(p, first(count)); }
  static void store_part(T* p, R x, int count) { _mm256_maskstore_ps(p, first(count), x); }
  static R add(R a, R b) { return _mm256_add_ps(a, b); }
  static R sub(R a, R b) { return _mm256_sub_ps(a, b); }
  static R mul(R a, R b) { return _mm256_mul_ps(a, b); }
  static R div(R a, R b) { return _mm256_div_ps(a, b); }
  static R fma(R a, R b, R c) { return _mm256_fmadd_ps(a, b, c); }
  // Returns b if either is NaN: a is the constant.
  static R max(R a, R b) { return _mm256_max_ps(a, b); }
  static R abs(R x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static T sum(R x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }

  static R gather(const T* p, const int32_t* index) {
    return _mm256_i32gather_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)), 4);
  }
  // table[index[i] - base] for every lane; all within eight entries.
  static R permute(R table, const int32_t* index, int32_t base) {
    const __m256i where =
        _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)),
                         _mm256_set1_epi32(base));
    return _mm256_permutevar8x32_ps(table, where);
  }
  static void keep_larger(R x, R label, R& best, R& best_label) {
    const R larger = _mm256_cmp_ps(x, best, _CMP_GT_OQ);
    best = _mm256_blendv_ps(best, x, larger);
    best_label = _mm256_blendv_ps(best_label, label, larger);
  }

  static R exp2(R t) { return exp2_sum<false>(_mm256_max_ps(set(-126.0f), t), t); }

  static R exp(R x) {
    x = _mm256_max_ps(set(-87.0f), x);
    x = _mm256_min_ps(set(88.0f), x);
    const R log2e = set(1.44269502f);
    const R t = _mm256_mul_ps(x, log2e);
    const R extra = _mm256_fmadd_ps(x, set(1.92596303e-8f), _mm256_fmsub_ps(x, log2e, t));
    return exp2_sum<true>(t, extra);
  }

  static R twice_atanh(R s) {
    const R v = _mm256_mul_ps(s, s);
    R p = set(0.21791792f);
    p = _mm256_fmadd_ps(p, v, set(0.1714785f));
    p = _mm256_fmadd_ps(p, v, set(0.22301500f));
    p = _mm256_fmadd_ps(p, v, set(0.28568396f));
    p = _mm256_fmadd_ps(p, v, set(0.40000053f));
    p = _mm256_fmadd_ps(p, v, set(0.66666666f));
    return _mm256_fmadd_ps(s, set(2.0f), _mm256_mul_ps(s, _mm256_mul_ps(v, p)));
  }

 private:
  // 2^(t + extra), extra counted when `Extra`; as in lanes_avx512.h, in eighths.
  template <bool Extra>
  static R exp2_sum(R t, R extra) {
    // 2^(j/8) as bits, less j << 20, which adding n << 20 puts back.
    alignas(32) static constexpr uint32_t table[8] = {
        0x3F800000u, 0x3F7B95C2u, 0x3F7837F0u, 0x3F75FED7u,
        0x3F7504F3u, 0x3F75672Au, 0x3F7744FDu, 0x3F7AC0C7u};
    const R magic = set(1572864.0f);  // 1.5 * 2^20: adding it rounds to eighths
    const R shifted = _mm256_add_ps(t, magic);
    R r = _mm256_sub_ps(t, _mm256_sub_ps(shifted, magic));
    if (Extra) r = _mm256_add_ps(r, extra);
    const __m256i n = _mm256_castps_si256(shifted);
    const __m256i root = _mm256_permutevar8x32_epi32(
        _mm256_load_si256(reinterpret_cast<const __m256i*>(table)), n);
    const R scale = _mm256_castsi256_ps(_mm256_add_epi32(root, _mm256_slli_epi32(n, 20)));
    R p = _mm256_fmadd_ps(set(0.05550882f), r, set(0.24025645f));
    p = _mm256_fmadd_ps(p, r, set(0.693147182f));
    return _mm256_fmadd_ps(scale, _mm256_mul_ps(p, r), scale);
  }
};

}  // namespace
}  // namespace streamseg
