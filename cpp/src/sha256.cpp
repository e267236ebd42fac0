#include "sha256.h"

#include <array>
#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace streamseg::core {
namespace {

// The first 32 bits of the fractional parts of roots of the first primes, as in the standard.
template <size_t Count>
std::array<uint32_t, Count> root_fractions(long double (*root)(long double)) {
  std::array<uint32_t, Count> found{};
  int prime = 1;
  for (auto& value : found) {
    bool composite = true;
    while (composite) {
      ++prime;
      composite = false;
      for (int d = 2; d * d <= prime; ++d) composite = composite || prime % d == 0;
    }
    const long double r = root(static_cast<long double>(prime));
    value = static_cast<uint32_t>(std::floor((r - std::floor(r)) * 4294967296.0L));
  }
  return found;
}

const std::array<uint32_t, 64>& constants() {
  static const auto table = root_fractions<64>([](long double x) { return std::cbrt(x); });
  return table;
}

uint32_t rotate(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

void mix_block(uint32_t* hash, const uint8_t* block, const uint32_t* k) {
  uint32_t w[64];
  for (int i = 0; i < 16; ++i) {
    w[i] = static_cast<uint32_t>(block[4 * i]) << 24 | static_cast<uint32_t>(block[4 * i + 1]) << 16 |
           static_cast<uint32_t>(block[4 * i + 2]) << 8 | block[4 * i + 3];
  }
  for (int i = 16; i < 64; ++i) {
    const uint32_t a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3);
    const uint32_t b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + a + w[i - 7] + b;
  }
  uint32_t v[8];
  std::memcpy(v, hash, sizeof v);
  for (int i = 0; i < 64; ++i) {
    const uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
    const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
    const uint32_t first = v[7] + s1 + choice + k[i] + w[i];
    const uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
    const uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
    for (int j = 7; j > 0; --j) v[j] = v[j - 1];
    v[4] += first;
    v[0] = first + s0 + majority;
  }
  for (int i = 0; i < 8; ++i) hash[i] += v[i];
}

void mix(uint32_t* hash, const uint8_t* data, size_t blocks, const uint32_t* k) {
  for (size_t i = 0; i < blocks; ++i) mix_block(hash, data + 64 * i, k);
}

using Mix = void (*)(uint32_t*, const uint8_t*, size_t blocks, const uint32_t*);

#if defined(__x86_64__)
// The same with the processor's SHA instructions, four rounds at a time. The chain of rounds limits
// the speed, so the hash stays in registers across blocks, and the loop over rounds is unrolled.
__attribute__((target("sha,sse4.1"))) void mix_by_processor(uint32_t* hash, const uint8_t* data, size_t blocks,
                                                            const uint32_t* k) {
  const auto load = [](const void* at) __attribute__((target("sha,sse4.1"))) {
    return _mm_loadu_si128(static_cast<const __m128i*>(at));
  };
  const __m128i order = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i low = _mm_shuffle_epi32(load(hash), 0xB1), high = _mm_shuffle_epi32(load(hash + 4), 0x1B);
  __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xF0);
  for (const uint8_t* block = data; block < data + 64 * blocks; block += 64) {
    __m128i w[4], s0 = abef, s1 = cdgh;
    for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(load(block + 16 * i), order);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      __m128i& current = w[i & 3];  // the words of sixteen rounds earlier
      if (i >= 4) {
        const __m128i last = w[(i + 3) & 3];
        const __m128i sum =
            _mm_add_epi32(_mm_sha256msg1_epu32(current, w[(i + 1) & 3]), _mm_alignr_epi8(last, w[(i + 2) & 3], 4));
        current = _mm_sha256msg2_epu32(sum, last);
      }
      const __m128i words = _mm_add_epi32(current, load(k + 4 * i));
      s1 = _mm_sha256rnds2_epu32(s1, s0, words);
      s0 = _mm_sha256rnds2_epu32(s0, s1, _mm_shuffle_epi32(words, 0x0E));
    }
    abef = _mm_add_epi32(s0, abef), cdgh = _mm_add_epi32(s1, cdgh);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(hash), _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(hash + 4), _mm_alignr_epi8(dchg, feba, 8));
}

bool has_instructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (b >> 29 & 1) == 0) return false;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 19 & 1) != 0;  // SSE4.1
}
#endif

Mix choose(bool portable) {
#if defined(__x86_64__)
  if (!portable && has_instructions()) return mix_by_processor;
#endif
  (void)portable;
  return mix;
}

}  // namespace

std::string digest(const uint8_t* data, size_t size, bool portable) {
  const Mix mix_blocks = choose(portable);
  const uint32_t* k = constants().data();
  auto hash = root_fractions<8>([](long double x) { return std::sqrt(x); });
  const size_t left = size % 64, at = size - left;
  if (at > 0) mix_blocks(hash.data(), data, at / 64, k);
  uint8_t tail[128] = {};
  if (left > 0) std::memcpy(tail, data + at, left);
  tail[left] = 0x80;
  const size_t length = left + 9 <= 64 ? 64 : 128;
  const uint64_t bits = static_cast<uint64_t>(size) * 8;
  for (size_t i = 0; i < 8; ++i) tail[length - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  mix_blocks(hash.data(), tail, length / 64, k);
  std::string text = "sha256:";
  for (const uint32_t word : hash) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

}  // namespace streamseg::core
