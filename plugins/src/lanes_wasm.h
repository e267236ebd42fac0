// Four channels at a time with WebAssembly SIMD. It has no fused multiply-add: products round first.
#pragma once

#include <wasm_simd128.h>

#include "recurrence.h"

namespace streamseg {
namespace {

struct WasmLanes {
  using T = float;
  using R = v128_t;
  static constexpr int kLanes = 4;
  static constexpr int kGroup = 8;
  static constexpr int kAbreast = 1;
  static constexpr bool kPermutes = false;
  static constexpr bool kTransposes = false;

  static R set(T x) { return wasm_f32x4_splat(x); }
  static R load(const T* p) { return wasm_v128_load(p); }
  static void store(T* p, R x) { wasm_v128_store(p, x); }
  static R load_part(const T* p, int count) {
    T lanes[4] = {0, 0, 0, 0};
    for (int i = 0; i < count; ++i) lanes[i] = p[i];
    return load(lanes);
  }
  static void store_part(T* p, R x, int count) {
    T lanes[4];
    store(lanes, x);
    for (int i = 0; i < count; ++i) p[i] = lanes[i];
  }
  static R add(R a, R b) { return wasm_f32x4_add(a, b); }
  static R sub(R a, R b) { return wasm_f32x4_sub(a, b); }
  static R mul(R a, R b) { return wasm_f32x4_mul(a, b); }
  static R div(R a, R b) { return wasm_f32x4_div(a, b); }
  static R fma(R a, R b, R c) { return add(mul(a, b), c); }
  // wasm_f32x4_max orders zeros and NaN, which costs instructions on x86: pmax is b > a ? b : a.
  static R max(R a, R b) { return wasm_f32x4_pmax(a, b); }
  static R abs(R x) { return wasm_f32x4_abs(x); }
  static T sum(R x) {
    return (wasm_f32x4_extract_lane(x, 0) + wasm_f32x4_extract_lane(x, 1)) +
           (wasm_f32x4_extract_lane(x, 2) + wasm_f32x4_extract_lane(x, 3));
  }

  static R gather(const T* p, const int32_t* index) {
    return wasm_f32x4_make(p[index[0]], p[index[1]], p[index[2]], p[index[3]]);
  }
  static void keep_larger(R x, R label, R& best, R& best_label) {
    const R larger = wasm_f32x4_gt(x, best);
    best = wasm_v128_bitselect(x, best, larger);
    best_label = wasm_v128_bitselect(label, best_label, larger);
  }

  static R exp2(R t) { return exp2_sum<false>(max(t, set(-126.0f)), t); }

  static R exp(R x) {
    x = wasm_f32x4_pmin(max(x, set(-87.0f)), set(88.0f));
    // x log2(e) to twice the precision: the product with the high part of x is exact.
    const R high = wasm_v128_and(x, wasm_i32x4_splat(static_cast<int32_t>(0xFFFFF000)));
    const R low = sub(x, high);
    const R log2e_high = set(1.44238281f);   // 12 significant bits
    const R log2e_low = set(3.12228388e-4f);  // log2(e) minus the above
    return exp2_sum<true>(mul(high, log2e_high), add(mul(low, log2e_high), mul(x, log2e_low)));
  }

  static R twice_atanh(R s) {
    const R v = mul(s, s);
    R p = set(0.21791792f);
    p = fma(p, v, set(0.1714785f));
    p = fma(p, v, set(0.22301500f));
    p = fma(p, v, set(0.28568396f));
    p = fma(p, v, set(0.40000053f));
    p = fma(p, v, set(0.66666666f));
    return add(mul(s, set(2.0f)), mul(s, mul(v, p)));
  }

 private:
  // 2^(t + extra), extra counted when `Extra`; 1 exactly at 0.
  template <bool Extra>
  static R exp2_sum(R t, R extra) {
    const R magic = set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const R shifted = add(t, magic);
    R r = sub(t, sub(shifted, magic));
    if (Extra) r = add(r, extra);
    R p = set(1.54722947e-4f);
    p = fma(p, r, set(1.33913371e-3f));
    p = fma(p, r, set(9.61802100e-3f));
    p = fma(p, r, set(5.55035882e-2f));
    p = fma(p, r, set(2.40226512e-1f));
    p = fma(p, r, set(0.693147182f));
    p = fma(p, r, set(1.0f));
    return wasm_i32x4_add(p, wasm_i32x4_shl(shifted, 23));
  }
};

}  // namespace
}  // namespace streamseg
