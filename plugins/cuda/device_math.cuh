// The arithmetic that recurrence.h asks for, on one CUDA thread.
#pragma once

#include <cuda_fp16.h>

#include "recurrence.h"

namespace streamseg::cuda {

struct DeviceMath {
  using T = float;
  using R = float;

  __device__ __forceinline__ static R set(float x) { return x; }
  __device__ __forceinline__ static R add(R a, R b) { return a + b; }
  __device__ __forceinline__ static R sub(R a, R b) { return a - b; }
  __device__ __forceinline__ static R mul(R a, R b) { return a * b; }
  __device__ __forceinline__ static R div(R a, R b) { return __fdividef(a, b); }
  __device__ __forceinline__ static R fma(R a, R b, R c) { return fmaf(a, b, c); }
  __device__ __forceinline__ static R max(R a, R b) { return fmaxf(a, b); }
  __device__ __forceinline__ static R abs(R x) { return fabsf(x); }

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

  // Clamped so that 1 + exp(x) stays finite under __fdividef, which returns 0 above 2^126.
  __device__ __forceinline__ static R exp(R x) { return expf(fminf(x, 80.0f)); }

  // For 0 <= s <= 1/3. Polynomial of the CPU kernels (lanes_scalar.h).
  __device__ __forceinline__ static R twice_atanh(R s) {
    const R v = s * s;
    R p = 0.21791792f;
    p = fmaf(p, v, 0.1714785f);
    p = fmaf(p, v, 0.22301500f);
    p = fmaf(p, v, 0.28568396f);
    p = fmaf(p, v, 0.40000053f);
    p = fmaf(p, v, 0.66666666f);
    return fmaf(s, v * p, s * 2.0f);
  }
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

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
