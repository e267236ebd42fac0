// 8-bit integers with AVX-512 VNNI, vpdpbusd, and 16-bit integers, vpdpwssd.
#pragma once

#include <immintrin.h>

#include "lanes_avx512.h"
#include "products_shorts.h"

namespace streamseg {
namespace {

struct Avx512Quads {
  using I = __m512i;
  static constexpr int kTall = 10;
  static constexpr int kShift = 128;

  static I zero() { return _mm512_setzero_si512(); }
  static I load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static I set(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static I dot(I sum, I a, I b) { return _mm512_dpbusd_epi32(sum, a, b); }
  static __m512 floats(I sum, const int32_t* columns) {
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_loadu_si512(columns)));
  }

  static float largest(__m512 x) { return _mm512_reduce_max_ps(x); }
  // Rounded to the nearest integer, plus 128.
  static void store_bytes(char* p, __m512 x) {
    const I shifted = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(128));
    const __m128i bytes = _mm512_cvtepi32_epi8(shifted);
    __builtin_memcpy(p, &bytes, 16);
  }
};

struct Avx512Shorts {
  using I = __m512i;
  static constexpr int kTall = 10;

  static I zero() { return _mm512_setzero_si512(); }
  static I load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static I set(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static I dot(I sum, I a, I b) { return _mm512_dpwssd_epi32(sum, a, b); }
  static __m512 floats(I sum, const int32_t*) { return _mm512_cvtepi32_ps(sum); }
  // Rounded to the nearest integer.
  static void store_shorts(char* p, __m512 x) {
    const __m256i shorts = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x));
    __builtin_memcpy(p, &shorts, 32);
  }
};

}  // namespace
}  // namespace streamseg
