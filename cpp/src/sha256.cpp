#include "sha256.h"

#include <array>
#include <cmath>
#include <cstring>

namespace streamseg::core {
namespace {

// The first 32 bits of the fractional parts of roots of the first primes, as the standard says.
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

void mix(std::array<uint32_t, 8>& hash, const uint8_t* block) {
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
  auto v = hash;
  for (size_t i = 0; i < 64; ++i) {
    const uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
    const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
    const uint32_t first = v[7] + s1 + choice + constants()[i] + w[i];
    const uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
    const uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
    for (size_t k = 7; k > 0; --k) v[k] = v[k - 1];
    v[4] += first;
    v[0] = first + s0 + majority;
  }
  for (size_t i = 0; i < 8; ++i) hash[i] += v[i];
}

}  // namespace

std::string digest(const uint8_t* data, size_t size) {
  auto hash = root_fractions<8>([](long double x) { return std::sqrt(x); });
  size_t at = 0;
  for (; at + 64 <= size; at += 64) mix(hash, data + at);
  uint8_t tail[128] = {};
  const size_t left = size - at;
  if (left > 0) std::memcpy(tail, data + at, left);
  tail[left] = 0x80;
  const size_t length = left + 9 <= 64 ? 64 : 128;
  const uint64_t bits = static_cast<uint64_t>(size) * 8;
  for (size_t i = 0; i < 8; ++i) tail[length - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  for (size_t i = 0; i < length; i += 64) mix(hash, tail + i);
  std::string text = "sha256:";
  for (const uint32_t word : hash) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

}  // namespace streamseg::core
