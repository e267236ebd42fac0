// The arithmetic that recurrence.h asks for, on one CUDA thread.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "recurrence.h"

namespace streamseg::cuda {

struct DeviceMath {
  using T = float;
  using R = float;

  __device__ __forceinline__ static R set(float x) { return x; }
  __device__ __forceinline__ static R add(R a, R b) { return a + b; }
  __device__ __forceinline__ static R sub(R a, R b) { return a - b; }
  __device__ __forceinline__ static R mul(R a, R b) { return a * b; }
  __device__ __forceinline__ static R div(R a, R b) { return a * reciprocal(b); }
  __device__ __forceinline__ static R fma(R a, R b, R c) { return fmaf(a, b, c); }
  __device__ __forceinline__ static R max(R a, R b) { return fmaxf(a, b); }
  __device__ __forceinline__ static R abs(R x) { return fabsf(x); }

  // Off by up to 2^-23 of its value; 0 above 2^126.
  __device__ __forceinline__ static R reciprocal(R x) {
#if defined(__CUDACC__)
    R out;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
#else
    return cuda_twin::reciprocal(x);
#endif
  }

  // 2^t as the special-function unit has it: off by up to 2^-22 of its value.
  __device__ __forceinline__ static R special_exp2(R t) {
#if defined(__CUDACC__)
    R out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(t));
    return out;
#else
    return cuda_twin::special_exp2(t);
#endif
  }

  // 2^t for decays. An error of a decay a reaches the state divided by 1 - a, so near 1 a polynomial
  // serves: 1 exactly at 0 and within 2^-24.5 below (the nearest float is within 2^-25). Where the
  // unit serves, 1 - a is above 0.034 and its error below 7e-6 of the state. Coefficients: minimax
  // of 2^t - 1 over t in [-0.05, 0.05].
  __device__ __forceinline__ static R exp2(R t) {
#if defined(STREAMSEG_PLAIN_EXP2)  // to measure what the polynomial costs and saves
    return special_exp2(t);
#else
    R near = 0.055508822f;
    near = fmaf(near, t, 0.24024643f);
    near = fmaf(near, t, 0.6931472f);
    near = fmaf(near, t, 1.0f);
    const R far = special_exp2(t);
    return fabsf(t) < 0.05f ? near : far;
#endif
  }

  // Off by up to 2^-22 and |x| 2^-24 of its value: x log2(e) is rounded. Infinite above 88.
  __device__ __forceinline__ static R exp(R x) {
    return special_exp2(x * static_cast<float>(kLog2E));
  }

  // For 0 <= s <= 1/3. Polynomial of the CPU kernels (lanes_scalar.h).
  __device__ __forceinline__ static R twice_atanh(R s) {
    const R v = s * s;
    R p = 0.21791792f;
    p = fmaf(p, v, 0.1714785f);
    p = fmaf(p, v, 0.22301500f);
    p = fmaf(p, v, 0.28568396f);
    p = fmaf(p, v, 0.40000053f);
    p = fmaf(p, v, 0.66666666f);
    return s * fmaf(v, p, 2.0f);
  }
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

// Two or four neighbours, aligned to their size.
__device__ __forceinline__ float2 load_pair(const float* at) {
  return *reinterpret_cast<const float2*>(at);
}
__device__ __forceinline__ float2 load_pair(const __half* at) {
  return __half22float2(*reinterpret_cast<const __half2*>(at));
}
__device__ __forceinline__ void store_pair(float* at, float first, float second) {
  *reinterpret_cast<float2*>(at) = make_float2(first, second);
}
__device__ __forceinline__ void store_pair(__half* at, float first, float second) {
  *reinterpret_cast<__half2*>(at) = __floats2half2_rn(first, second);
}
__device__ __forceinline__ float4 load_four(const float* at) {
  return *reinterpret_cast<const float4*>(at);
}
__device__ __forceinline__ void store_four(float (&to)[4], const float4& values) {
  to[0] = values.x;
  to[1] = values.y;
  to[2] = values.z;
  to[3] = values.w;
}

// Four neighbours as they lie in memory.
template <class T>
using RawFour = std::conditional_t<sizeof(T) == 2, uint2, float4>;

template <class T>
__device__ __forceinline__ RawFour<T> raw_four(const T* at) {
  return *reinterpret_cast<const RawFour<T>*>(at);
}
__device__ __forceinline__ float4 widen_four(const float4& raw) { return raw; }
__device__ __forceinline__ float4 widen_four(const uint2& raw) {
  const float2 low = load_pair(reinterpret_cast<const __half*>(&raw.x));
  const float2 high = load_pair(reinterpret_cast<const __half*>(&raw.y));
  return make_float4(low.x, low.y, high.x, high.y);
}
__device__ __forceinline__ void narrow_four(float* at, const float (&values)[4]) {
  *reinterpret_cast<float4*>(at) = make_float4(values[0], values[1], values[2], values[3]);
}
__device__ __forceinline__ void narrow_four(__half* at, const float (&values)[4]) {
  uint2 raw;
  store_pair(reinterpret_cast<__half*>(&raw.x), values[0], values[1]);
  store_pair(reinterpret_cast<__half*>(&raw.y), values[2], values[3]);
  *reinterpret_cast<uint2*>(at) = raw;
}

template <class T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float x) {
  return __float2half_rn(x);
}

}  // namespace streamseg::cuda
