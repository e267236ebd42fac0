// 8-bit and 16-bit integers with AVX-VNNI, the form of vpdpbusd and vpdpwssd for AVX2.
#pragma once

#include <immintrin.h>

#include "lanes_avx2.h"
#include "products_shorts.h"

namespace streamseg {
namespace {

struct Avx2Quads {
  using I = __m256i;
  static constexpr int kTall = 6;
  static constexpr int kShift = 128;

  static I zero() { return _mm256_setzero_si256(); }
  static I load(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const I*>(p)); }
  static I set(uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
  static I dot(I sum, I a, I b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
  static __m256 floats(I sum, const int32_t* columns) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, _mm256_loadu_si256(reinterpret_cast<const I*>(columns))));
  }

  static float largest(__m256 x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  // Rounded to the nearest integer, plus 128.
  static void store_bytes(char* p, __m256 x) {
    const I shifted = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(128));
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(shifted), _mm256_extracti128_si256(shifted, 1));
    const __m128i bytes = _mm_packus_epi16(words, words);
    __builtin_memcpy(p, &bytes, 8);
  }
};

struct Avx2Shorts {
  using I = __m256i;
  static constexpr int kTall = 6;

  static I zero() { return _mm256_setzero_si256(); }
  static I load(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const I*>(p)); }
  static I set(uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
  static I dot(I sum, I a, I b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
  static __m256 floats(I sum, const int32_t*) { return _mm256_cvtepi32_ps(sum); }
  // Rounded to the nearest integer.
  static void store_shorts(char* p, __m256 x) {
    const I words = _mm256_cvtps_epi32(x);
    const __m128i shorts =
        _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    __builtin_memcpy(p, &shorts, 16);
  }
};

}  // namespace
}  // namespace streamseg
