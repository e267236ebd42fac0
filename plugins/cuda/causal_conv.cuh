// Causal depthwise convolution within each cell, with bias and SiLU.
#pragma once

#include "device_math.cuh"

namespace streamseg::cuda {

template <class T>
struct ConvArguments {
  WindowGrid grid;
  int32_t cells;
  int32_t channels;
  int32_t taps;
  int32_t runs;  // pieces of the longest cell
  const T* x;
  const float* weight;
  const float* bias;
  const float* state;
  T* y;
  float* next_state;
};

constexpr int kConvThreads = 128;  // one channel each
constexpr int kConvRun = 16;       // tokens of a cell that a thread handles

// The sequence of one channel in one cell: taps - 1 inputs of old state, then the tokens.
template <class T>
struct ChannelSequence {
  const T* map;        // at the channel
  const float* state;  // [taps - 1]
  Cell cell;
  int32_t map_w;
  int32_t channels;
  int32_t history;

  __device__ __forceinline__ int32_t token(int32_t step) const {
    const int32_t row = step / cell.width;
    return (cell.top + row) * map_w + cell.left + (step - row * cell.width);
  }

  __device__ __forceinline__ float at(int32_t step) const {
    return step < 0 ? state[step + history] : widen(map[token(step) * channels]);
  }
};

// Grid: cells times runs, channel blocks, batch. Taps = 0 takes any number of taps.
template <class T, int Taps>
__global__ void __launch_bounds__(kConvThreads) causal_conv_kernel(ConvArguments<T> p) {
  const int32_t channel = blockIdx.y * kConvThreads + threadIdx.x;
  const int32_t index = blockIdx.x / p.runs;
  const int32_t run = blockIdx.x % p.runs;
  const Cell cell = p.grid.cell(index);
  const int32_t length = static_cast<int32_t>(cell.tokens());
  const int32_t begin = run * kConvRun;
  if (channel >= p.channels || begin >= length) return;

  const int32_t taps = Taps > 0 ? Taps : p.taps;
  const int32_t history = taps - 1;
  const int64_t map = static_cast<int64_t>(blockIdx.z) * p.grid.tokens() * p.channels + channel;
  const int64_t state =
      ((static_cast<int64_t>(blockIdx.z) * p.cells + index) * p.channels + channel) * history;
  const ChannelSequence<T> sequence{p.x + map, p.state + state, cell, p.grid.cols.extent,
                                    p.channels, history};
  const float* weight = p.weight + static_cast<int64_t>(channel) * taps;
  const float bias = p.bias[channel];

  if constexpr (Taps > 0) {
    float inputs[kConvRun + Taps - 1];
#pragma unroll
    for (int i = 0; i < kConvRun + Taps - 1; ++i) {
      const int32_t step = begin + i - (Taps - 1);
      inputs[i] = step < length ? sequence.at(step) : 0.0f;
    }
    float taken[Taps];
#pragma unroll
    for (int k = 0; k < Taps; ++k) taken[k] = weight[k];
#pragma unroll
    for (int i = 0; i < kConvRun; ++i) {
      if (begin + i < length) {
        float sum = bias;
#pragma unroll
        for (int k = 0; k < Taps; ++k) sum = fmaf(taken[k], inputs[i + k], sum);
        p.y[map + static_cast<int64_t>(sequence.token(begin + i)) * p.channels] =
            narrow<T>(silu<DeviceMath>(sum));
      }
    }
  } else {
    for (int32_t step = begin; step < min(begin + kConvRun, length); ++step) {
      float sum = bias;
#pragma unroll 1
      for (int32_t k = 0; k < taps; ++k) sum = fmaf(weight[k], sequence.at(step + k - history), sum);
      p.y[map + static_cast<int64_t>(sequence.token(step)) * p.channels] =
          narrow<T>(silu<DeviceMath>(sum));
    }
  }
  if (run == 0) {
#pragma unroll 1
    for (int32_t k = 0; k < history; ++k) {
      p.next_state[state + k] = sequence.at(length + k - history);
    }
  }
}

}  // namespace streamseg::cuda
