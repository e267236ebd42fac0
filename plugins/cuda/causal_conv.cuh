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
  int32_t runs;   // pieces of the longest cell
  int32_t lanes;  // log2 of the threads of a block that lie side by side on the channels
  const T* x;
  const float* weight;
  const float* bias;
  const float* state;
  T* y;
  float* next_state;
};

constexpr int kConvThreads = 128;
constexpr int kConvRun = 16;  // tokens of a cell that a thread handles
constexpr int kConvBlocks = 6;  // of a multiprocessor: bounds the registers

// What one thread has: a run of a cell, and a channel or the first of four.
struct ConvPlace {
  int32_t cell;
  int32_t begin;
  int32_t channel;

  template <class T>
  __device__ __forceinline__ ConvPlace(const ConvArguments<T>& p, int32_t width) {
    const int32_t index =
        blockIdx.x * (kConvThreads >> p.lanes) + (static_cast<int32_t>(threadIdx.x) >> p.lanes);
    const int32_t lane = threadIdx.x & ((1 << p.lanes) - 1);
    cell = index / p.runs;
    begin = (index - cell * p.runs) * kConvRun;
    channel = width * ((static_cast<int32_t>(blockIdx.y) << p.lanes) + lane);
  }
};

// Any number of taps, a channel a thread. Grid: runs, channel blocks, batch.
template <class T>
__global__ void __launch_bounds__(kConvThreads) causal_conv_kernel(ConvArguments<T> p) {
  const ConvPlace place(p, 1);
  if (place.cell >= p.cells || place.channel >= p.channels) return;
  const Cell cell = p.grid.cell(place.cell);
  const auto length = static_cast<int32_t>(cell.tokens());
  if (place.begin >= length) return;
  const int32_t history = p.taps - 1;
  const int64_t map =
      static_cast<int64_t>(blockIdx.z) * p.grid.tokens() * p.channels + place.channel;
  const int64_t state =
      ((static_cast<int64_t>(blockIdx.z) * p.cells + place.cell) * p.channels + place.channel) *
      history;
  const float* weight = p.weight + static_cast<int64_t>(place.channel) * p.taps;
  const auto at = [&](int32_t step) {
    return map + cell.token(step, p.grid.cols.extent) * p.channels;
  };
  // The sequence: taps - 1 inputs of old state, then the tokens.
  const auto input = [&](int32_t step) {
    return step < 0 ? p.state[state + step + history] : widen(p.x[at(step)]);
  };
#pragma unroll 1
  for (int32_t step = place.begin; step < min(place.begin + kConvRun, length); ++step) {
    float sum = p.bias[place.channel];
#pragma unroll 1
    for (int32_t k = 0; k < p.taps; ++k) sum = fmaf(weight[k], input(step + k - history), sum);
    p.y[at(step)] = narrow<T>(silu<DeviceMath>(sum));
  }
  if (place.begin == 0) {
#pragma unroll 1
    for (int32_t k = 0; k < history; ++k) p.next_state[state + k] = input(length + k - history);
  }
}

// Walks a cell's tokens in order.
struct TokenWalk {
  int32_t column;
  int32_t width;
  int32_t offset;  // of the token's channel on the map
  int32_t right;   // to the next token of a row
  int32_t down;    // to the first of the next row

  __device__ __forceinline__ TokenWalk(const Cell& cell, int32_t map_w, int32_t step,
                                       int32_t channels, int32_t channel)
      : width(cell.width), right(channels), down((map_w - cell.width + 1) * channels) {
    const int32_t row = step / width;
    column = step - row * width;
    offset = ((cell.top + row) * map_w + cell.left + column) * channels + channel;
  }

  __device__ __forceinline__ int32_t next() {
    const int32_t here = offset;
    const bool last = ++column == width;
    offset += last ? down : right;
    column = last ? 0 : column;
    return here;
  }
};

// Four taps, four channels a thread, whose inputs and outputs are read and written together; for
// channels in fours and aligned arrays.
template <class T>
class FourChannelConv {
 public:
  __device__ __forceinline__ FourChannelConv(const ConvArguments<T>& p, const ConvPlace& place,
                                             const Cell& cell, int32_t left)
      : begin_(place.begin), left_(left),
        walk_(cell, p.grid.cols.extent, max(place.begin - kHistory, 0), p.channels, place.channel) {
    const int64_t map = static_cast<int64_t>(blockIdx.z) * p.grid.tokens() * p.channels;
    x_ = p.x + map;
    y_ = p.y + map;
    state_ = ((static_cast<int64_t>(blockIdx.z) * p.cells + place.cell) * p.channels +
              place.channel) * kHistory;
    store_four(bias_, load_four(p.bias + place.channel));
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      store_four(weight_[c], load_four(p.weight + kTaps * (place.channel + c)));
    }
  }

  __device__ __forceinline__ void run(const ConvArguments<T>& p) {
    load_history(p.state + state_);
    if (left_ >= kConvRun) {
      convolve<true>();
    } else {
      convolve<false>();
    }
    if (left_ <= kConvRun) store_history(p.next_state + state_);
  }

 private:
  static constexpr int kTaps = 4;
  static constexpr int kHistory = kTaps - 1;
  static constexpr int kAhead = 4;  // tokens read before the first is used
  static_assert(kConvRun % kAhead == 0);

  __device__ __forceinline__ void load_history(const float* state) {
#pragma unroll
    for (int k = 0; k < kHistory; ++k) {
      float before[4];
      if (begin_ > 0) store_four(before, widen_four(raw_four(x_ + walk_.next())));
#pragma unroll
      for (int c = 0; c < 4; ++c) window_[c][k] = begin_ > 0 ? before[c] : state[c * kHistory + k];
    }
  }

  __device__ __forceinline__ void store_history(float* state) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int k = 0; k < kHistory; ++k) state[c * kHistory + k] = window_[c][k];
    }
  }

  // Whole: all tokens of the run are there.
  template <bool Whole>
  __device__ __forceinline__ void convolve() {
#pragma unroll
    for (int first = 0; first < kConvRun; first += kAhead) {
      int32_t offset[kAhead];
      RawFour<T> raw[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        offset[i] = walk_.next();
        if (Whole || first + i < left_) raw[i] = raw_four(x_ + offset[i]);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (Whole || first + i < left_) token(raw[i], y_ + offset[i]);
      }
    }
  }

  __device__ __forceinline__ void token(const RawFour<T>& raw, T* y) {
    float input[4];
    float out[4];
    store_four(input, widen_four(raw));
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      window_[c][kHistory] = input[c];
      float sum = bias_[c];
#pragma unroll
      for (int k = 0; k < kTaps; ++k) sum = fmaf(weight_[c][k], window_[c][k], sum);
      out[c] = silu<DeviceMath>(sum);
#pragma unroll
      for (int k = 0; k < kHistory; ++k) window_[c][k] = window_[c][k + 1];
    }
    narrow_four(y, out);
  }

  const int32_t begin_;
  const int32_t left_;  // tokens from the run's first to the cell's end
  TokenWalk walk_;
  const T* x_;
  T* y_;
  int64_t state_;
  float weight_[4][kTaps];
  float bias_[4];
  float window_[4][kTaps];  // of a channel: the three inputs before, and this one
};

// Grid: runs, channel blocks, batch.
template <class T>
__global__ void __launch_bounds__(kConvThreads, kConvBlocks)
    causal_conv_fours_kernel(ConvArguments<T> p) {
  const ConvPlace place(p, 4);
  if (place.cell >= p.cells || place.channel >= p.channels) return;
  const Cell cell = p.grid.cell(place.cell);
  const int32_t left = static_cast<int32_t>(cell.tokens()) - place.begin;
  if (left > 0) FourChannelConv<T>(p, place, cell, left).run(p);
}

}  // namespace streamseg::cuda
