// The two ends of a step: frames in, labels out.
#pragma once

#include "device_math.cuh"

namespace streamseg::cuda {

constexpr int kPixelThreads = 256;

struct LabelSizes {
  int32_t classes;
  int32_t height;
  int32_t width;
  int32_t out_height;
  int32_t out_width;
};

// Source position of an output index with half-pixel centres, exact in integers:
// (2 i + 1) in / (2 out) - 1/2, not below 0.
struct SourceIndex {
  int32_t low;
  int32_t high;
  float fraction;

  __device__ __forceinline__ SourceIndex(int32_t index, int32_t in, int32_t out) {
    const int64_t numerator = max(static_cast<int64_t>(2 * index + 1) * in - out, int64_t{0});
    const uint32_t denominator = 2u * static_cast<uint32_t>(out);
    const uint32_t whole = static_cast<uint32_t>(numerator) / denominator;
    fraction = static_cast<float>(static_cast<uint32_t>(numerator) - whole * denominator) /
               static_cast<float>(denominator);
    low = static_cast<int32_t>(whole);
    high = min(low + 1, in - 1);
  }
};

// Grid: columns, rows, batch. Rows are blended before columns, as the CPU kernel does.
template <class T, class Label>
__global__ void __launch_bounds__(kPixelThreads)
    upsample_argmax_kernel(LabelSizes p, const T* scores, Label* labels) {
  const int32_t x = blockIdx.x * kPixelThreads + threadIdx.x;
  if (x >= p.out_width) return;
  const SourceIndex row(blockIdx.y, p.height, p.out_height);
  const SourceIndex column(x, p.width, p.out_width);
  const int32_t plane = p.height * p.width;
  const T* upper = scores + static_cast<int64_t>(blockIdx.z) * p.classes * plane;
  const T* lower = upper + row.high * p.width;
  upper += row.low * p.width;
  float best = 0.0f;
  int32_t label = 0;
  for (int32_t k = 0; k < p.classes; ++k, upper += plane, lower += plane) {
    const float a = widen(upper[column.low]);
    const float b = widen(upper[column.high]);
    const float left = fmaf(row.fraction, widen(lower[column.low]) - a, a);
    const float right = fmaf(row.fraction, widen(lower[column.high]) - b, b);
    const float score = fmaf(column.fraction, right - left, left);
    if (k == 0 || score > best) {
      best = score;
      label = k;
    }
  }
  const int64_t at = static_cast<int64_t>(blockIdx.z) * p.out_height + blockIdx.y;
  labels[at * p.out_width + x] = static_cast<Label>(label);
}

struct Normalisation {
  float mean[3];
  float scale[3];  // 1 / std
};

// Grid: pixels, batch. [batch, pixels, 3] to [batch, 3, pixels].
template <class T>
__global__ void __launch_bounds__(kPixelThreads)
    normalise_kernel(Normalisation p, int32_t pixels, const uint8_t* frame, T* out) {
  const int32_t pixel = blockIdx.x * kPixelThreads + threadIdx.x;
  if (pixel >= pixels) return;
  const int64_t image = static_cast<int64_t>(blockIdx.y) * pixels * 3;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const float value = static_cast<float>(frame[image + static_cast<int64_t>(pixel) * 3 + c]);
    out[image + static_cast<int64_t>(c) * pixels + pixel] =
        narrow<T>((value - p.mean[c]) * p.scale[c]);
  }
}

// Sets *flag where a value is NaN or infinite; leaves it alone otherwise.
template <class T>
__global__ void __launch_bounds__(kPixelThreads)
    find_nonfinite_kernel(int64_t count, int64_t stride, const T* values, int32_t* flag) {
  bool found = false;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPixelThreads + threadIdx.x; i < count;
       i += stride) {
    found = found || !(fabsf(widen(values[i])) <= 3.4028235e38f);
  }
  if (found) *flag = 1;
}

}  // namespace streamseg::cuda
