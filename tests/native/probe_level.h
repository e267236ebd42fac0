// The probes of one instruction set.
#pragma once

#include "scan_kernel.h"

namespace streamseg {

struct Probes {
  const char* level;
  int64_t lanes;
  void (*exp)(const float* x, int64_t count, bool base2, float* out);
  float (*floor)(int64_t vectors, int kind);
};

namespace {

template <class V>
void probe_exponential(const float* x, int64_t count, bool base2, float* out) {
  using B = Blocks<V>;
  for (int64_t i = 0; i < count; i += B::W) {
    const auto lane = B::load(x + i, count - i);
    B::store(out + i, base2 ? V::exp2(lane) : V::exp(lane), count - i);
  }
}

// kind 0: the scan's decays alone (one product and 2^t a state); 1: its other products and sums
// alone; 2: both, as the scan does them. Operands live in registers.
template <class V>
float measure_floor(int64_t vectors, int kind) {
  using R = typename V::R;
  constexpr int kStreams = 8;
  R s[kStreams];
  R t[kStreams];
  for (int i = 0; i < kStreams; ++i) {
    s[i] = V::set(0.5f);
    t[i] = V::set(-0.01f * static_cast<float>(i + 1));
  }
  float rates[kStreams * V::kLanes];
  for (int i = 0; i < kStreams; ++i) V::store(rates + i * V::kLanes, t[i]);
  R dt = V::set(0.1f);
  const R c = V::set(0.25f);
  const R step = V::set(1.0009765625f);
  R sum = V::set(0);
  R odd = V::set(0);
  for (int64_t v = 0; v < vectors; v += kStreams) {
    if (kind == 0) {
      for (int i = 0; i < kStreams; ++i) s[i] = V::max(s[i], V::exp2(V::mul(dt, t[i])));
    } else if (kind == 1) {
      for (int i = 0; i < kStreams; ++i) {
        s[i] = V::fma(c, s[i], V::mul(dt, t[i]));
        R& y = i % 2 == 0 ? sum : odd;
        y = V::fma(s[i], c, y);
      }
    } else {
#pragma GCC unroll 32
      for (int i = 0; i < kStreams; i += V::kAbreast) {
        R a[V::kAbreast];
        decay_abreast<V, V::kAbreast>(dt, rates + i * V::kLanes, a);
#pragma GCC unroll 8
        for (int k = 0; k < V::kAbreast; ++k) {
          s[i + k] = V::fma(a[k], s[i + k], V::mul(dt, c));
          R& y = k % 2 == 0 ? sum : odd;
          y = V::fma(s[i + k], c, y);
        }
      }
    }
    dt = V::mul(dt, step);
  }
  for (int i = 0; i < kStreams; ++i) sum = V::add(sum, s[i]);
  return V::sum(V::add(sum, odd));
}

}  // namespace
}  // namespace streamseg
