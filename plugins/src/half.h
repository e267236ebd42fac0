// float16 (IEEE binary16) and bfloat16 to float32 and back, rounding to nearest even, in integer
// arithmetic: the same on every compiler and processor, and without branches, so loops vectorise.
#pragma once

#include <cstdint>
#include <cstring>

namespace streamseg {

inline float widen_half(uint16_t half) {
  constexpr uint32_t kExponent = 0x7c00u << 13;
  uint32_t bits = (half & 0x7fffu) << 13;
  const uint32_t exponent = bits & kExponent;
  bits += (127u - 15u) << 23;
  const bool special = exponent == kExponent;  // infinity, NaN
  const bool small = exponent == 0;            // zero, subnormal
  bits += special ? (128u - 16u) << 23 : 0u;
  bits += small ? 1u << 23 : 0u;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  value -= small ? 0x1p-14f : 0.0f;
  std::memcpy(&bits, &value, sizeof bits);
  bits |= (half & 0x8000u) << 16;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t narrow_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits & 0x80000000u;
  bits ^= sign;
  // Below half's smallest normal number: adding 0.5 leaves its units in the last place.
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof magnitude);
  magnitude += 0.5f;
  uint32_t small;
  std::memcpy(&small, &magnitude, sizeof small);
  small -= 0x3f000000u;
  const uint32_t normal = (bits + ((15u - 127u) << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  const uint32_t large = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t half = bits >= 143u << 23 ? large : bits < 113u << 23 ? small : normal;
  return static_cast<uint16_t>(half | (sign >> 16));
}

inline float widen_bfloat16(uint16_t narrow) {
  const uint32_t bits = static_cast<uint32_t>(narrow) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t narrow_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>((nan ? bits | 0x400000u : rounded) >> 16);
}

}  // namespace streamseg
