// One channel at a time, float or double, in plain C++.
#pragma once

#include <cmath>
#include <cstring>

#include "recurrence.h"

namespace streamseg {
namespace {

template <class Number>
struct ScalarLanes;

template <>
struct ScalarLanes<float> {
  using T = float;
  using R = float;
  static constexpr int kLanes = 1;
  static constexpr int kGroup = 4;
  static constexpr int kAbreast = 1;
  static constexpr bool kPermutes = false;
  static constexpr bool kTransposes = false;

  static R set(T x) { return x; }
  static R load(const T* p) { return *p; }
  static void store(T* p, R x) { *p = x; }
  static R load_part(const T* p, int) { return *p; }
  static void store_part(T* p, R x, int) { *p = x; }
  static R add(R a, R b) { return a + b; }
  static R sub(R a, R b) { return a - b; }
  static R mul(R a, R b) { return a * b; }
  static R div(R a, R b) { return a / b; }
  static R fma(R a, R b, R c) { return a * b + c; }
  static R max(R a, R b) { return a > b ? a : b; }
  static R abs(R x) { return std::fabs(x); }
  static T sum(R x) { return x; }
  static R gather(const T* p, const int32_t* index) { return p[*index]; }
  static void keep_larger(R x, R label, R& best, R& best_label) {
    if (x > best) {
      best = x;
      best_label = label;
    }
  }

  static R exp2(R t) { return exp2_sum(t < -126.0f ? -126.0f : t, 0.0f); }

  static R exp(R x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    // x log2(e) to twice the precision: the product with the high part of x is exact.
    const R high = split(x);
    const R low = x - high;
    constexpr float log2e_high = 1.44238281f;    // 12 significant bits
    constexpr float log2e_low = 3.12228388e-4f;  // log2(e) minus the above
    return exp2_sum(high * log2e_high, low * log2e_high + x * log2e_low);
  }

  static R twice_atanh(R s) {
    const R v = s * s;
    R p = 0.21791792f;
    p = p * v + 0.1714785f;
    p = p * v + 0.22301500f;
    p = p * v + 0.28568396f;
    p = p * v + 0.40000053f;
    p = p * v + 0.66666666f;
    return s * 2.0f + s * (v * p);
  }

 private:
  static R split(R x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits &= 0xFFFFF000u;
    std::memcpy(&x, &bits, 4);
    return x;
  }

  // 2^(t + extra) for -126 <= t < 128 and a tiny `extra`; 1 exactly at 0.
  static R exp2_sum(R t, R extra) {
    constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const R shifted = t + magic;
    const R r = (t - (shifted - magic)) + extra;
    R p = 1.54722947e-4f;
    p = p * r + 1.33913371e-3f;
    p = p * r + 9.61802100e-3f;
    p = p * r + 5.55035882e-2f;
    p = p * r + 2.40226512e-1f;
    p = p * r + 0.693147182f;
    p = p * r + 1.0f;
    uint32_t exponent;
    uint32_t bits;
    std::memcpy(&exponent, &shifted, 4);
    std::memcpy(&bits, &p, 4);
    bits += exponent << 23;
    std::memcpy(&p, &bits, 4);
    return p;
  }
};

// To check gradients; speed does not matter.
template <>
struct ScalarLanes<double> {
  using T = double;
  using R = double;
  static constexpr int kLanes = 1;
  static constexpr int kGroup = 4;
  static constexpr int kAbreast = 1;
  static constexpr bool kPermutes = false;
  static constexpr bool kTransposes = false;

  static R set(T x) { return x; }
  static R load(const T* p) { return *p; }
  static void store(T* p, R x) { *p = x; }
  static R load_part(const T* p, int) { return *p; }
  static void store_part(T* p, R x, int) { *p = x; }
  static R add(R a, R b) { return a + b; }
  static R sub(R a, R b) { return a - b; }
  static R mul(R a, R b) { return a * b; }
  static R div(R a, R b) { return a / b; }
  static R fma(R a, R b, R c) { return a * b + c; }
  static R max(R a, R b) { return a > b ? a : b; }
  static R abs(R x) { return std::fabs(x); }
  static T sum(R x) { return x; }
  static R exp2(R t) { return std::exp2(t); }
  static R exp(R x) { return std::exp(x); }
  static R twice_atanh(R s) { return 2.0 * std::atanh(s); }
};

}  // namespace
}  // namespace streamseg
