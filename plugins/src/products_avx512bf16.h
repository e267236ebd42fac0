// bfloat16 numbers with AVX-512 BF16: vdpbf16ps.
#pragma once

#include <x86intrin.h>

#include "products_avx512.h"

namespace streamseg {
namespace {

struct Avx512Pairs {
  using I = __m512i;
  static constexpr int kTall = 10;

  static I zero() { return _mm512_setzero_si512(); }
  static I load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static I set(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static I dot(I sum, I a, I b) {
    return _mm512_castps_si512(
        _mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)a, (__m512bh)b));
  }
  static __m512 floats(I sum, const int32_t*) { return _mm512_castsi512_ps(sum); }
};

// Rows of bfloat16 numbers and of integers are padded to `Bytes`, those of bfloat16 numbers at least
// to 32.
template <int Bytes = 16>
struct PairProducts : QuadProducts<Avx512Lanes, Avx512Quads, Bytes> {
  using Quads = QuadProducts<Avx512Lanes, Avx512Quads, Bytes>;
  using Quads::kPanel;
  using Quads::lane;
  using Quads::padded;
  using Quads::share;
  using Quads::W;

  static int64_t row_words(int64_t depth, Precision precision) {
    constexpr int kNumbers = Bytes < 32 ? 16 : Bytes / 2;
    return precision == Precision::kBfloat16 ? (depth + kNumbers - 1) / kNumbers * (kNumbers / 2)
                                             : Quads::row_words(depth, precision);
  }

  static size_t packed_bytes(int64_t depth, int64_t columns, Precision precision) {
    return static_cast<size_t>(row_words(depth, precision) * padded(columns)) * 4;
  }

  static void pack(const float* weight, int64_t depth, int64_t columns, Precision precision,
                   void* panels, float* scale, int32_t* sums) {
    if (precision != Precision::kBfloat16) {
      Quads::pack(weight, depth, columns, precision, panels, scale, sums);
      return;
    }
    const int64_t words = row_words(depth, precision);
    for (int64_t n = 0; n < padded(columns); n += W) {
      auto* out = static_cast<uint32_t*>(panels) + n / kPanel * words * kPanel + n % kPanel;
      _mm512_storeu_ps(scale + n, _mm512_set1_ps(1.0f));
      _mm512_storeu_si512(sums + n, _mm512_setzero_si512());
      for (int64_t word = 0; word < words; ++word, out += kPanel) {
        const auto half = [&](int64_t k) {
          const __m512 x = k < depth ? lane(weight, columns, k, n) : _mm512_setzero_ps();
          return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
        };
        const __m512i high = _mm512_slli_epi32(half(2 * word + 1), 16);
        _mm512_storeu_si512(out, _mm512_or_si512(half(2 * word), high));
      }
    }
  }

  static void pack_shared(const float* weight, int64_t depth, int64_t columns, Precision precision,
                          void* panels, float* scale, int32_t* sums) {
    if (precision == Precision::kBfloat16) {
      pack(weight, depth, columns, precision, panels, scale, sums);
    } else {
      Quads::pack_shared(weight, depth, columns, precision, panels, scale, sums);
    }
  }

  static float shares(const float* scores, int64_t count, float top, Precision precision,
                      float* out) {
    if (precision != Precision::kBfloat16) {
      return Quads::shares(scores, count, top, precision, out);
    }
    char* bytes = reinterpret_cast<char*>(out);
    __m512 total = _mm512_setzero_ps();
    for (int64_t k = 0; k < count; k += W) {
      const __m256bh halves = _mm512_cvtneps_pbh(share(scores + k, top));
      __builtin_memcpy(bytes + 2 * k, &halves, 32);
      const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)halves), 16);
      total = _mm512_add_ps(total, _mm512_castsi512_ps(wide));
    }
    Quads::clear(out, (count + W - 1) / W * (W / 2), row_words(count, precision));
    return _mm512_reduce_add_ps(total);
  }

  static float convert(const float* x, int64_t depth, Precision precision, float* out) {
    if (precision != Precision::kBfloat16) return Quads::convert(x, depth, precision, out);
    char* bytes = reinterpret_cast<char*>(out);
    for (int64_t k = 0; k < 2 * row_words(depth, precision); k += W) {
      const __m512 row = k < depth ? Blocks<Avx512Lanes>::load(x + k, depth - k) : _mm512_setzero_ps();
      const __m256bh halves = _mm512_cvtneps_pbh(row);
      __builtin_memcpy(bytes + 2 * k, &halves, 32);
    }
    return 1.0f;
  }

  static void multiply(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                       float* c, int64_t stride) {
    if (w.precision == Precision::kBfloat16) {
      multiply_words<Avx512Lanes, Avx512Pairs>(a, row_scale, rows, row_words(w.depth, w.precision), w,
                                               c, stride);
    } else {
      Quads::multiply(a, row_scale, rows, w, c, stride);
    }
  }
};

// Cycles of many independent calls of `step`, the least of several attempts.
template <class Step>
uint64_t least_cycles(Step step) {
  uint64_t least = ~uint64_t{0};
  for (int attempt = 0; attempt < 8; ++attempt) {
    __m512 sums[12];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    const uint64_t start = __rdtsc();
    for (int i = 0; i < 128; ++i) {
#pragma GCC unroll 12
      for (auto& sum : sums) {
        sum = step(sum);
        __asm__ volatile("" : "+v"(sum));
      }
    }
    const uint64_t taken = __rdtsc() - start;
    least = taken < least ? taken : least;
  }
  return least;
}

// Whether this processor multiplies bfloat16 numbers faster than float32 numbers: some take four
// times as long for an instruction that does twice the work. Takes some 20 microseconds.
inline bool pairs_are_fast() {
  const __m512 one = _mm512_set1_ps(1.0f);
  const auto pairs = [&](__m512 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(one),
                            (__m512bh)_mm512_castps_si512(one));
  };
  const auto floats = [&](__m512 sum) { return _mm512_fmadd_ps(one, one, sum); };
  least_cycles(floats);  // wakes the wide units
  return least_cycles(pairs) < 2 * least_cycles(floats);
}

}  // namespace
}  // namespace streamseg
