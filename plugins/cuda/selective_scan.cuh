// The windowed selective scan: softplus, recurrence, skip and gate of one frame.
//
// `Split` neighbouring threads share a channel and hold `States` of its states each, in registers.
// Tokens are taken in groups of `Split`: every thread of a channel prepares one token of the group
// (loads, bias, softplus) and, after the group's recurrence, finishes one (sum over states, skip,
// gate, store), so that nothing but the recurrence is done more than once. While a group runs, the
// next one's softplus and the loads of the one after it are under way. B and C come through shared
// memory, a tile ahead.
#pragma once

#include "device_math.cuh"

namespace streamseg::cuda {

template <class T>
struct ScanArguments {
  WindowGrid grid;
  int32_t cells;
  int32_t channels;
  int32_t states;
  const T* u;
  const T* dt;
  const float* dt_bias;
  const float* A;
  const T* B;
  const T* C;
  const float* skip;
  const T* z;
  const float* state;
  T* y;
  float* next_state;
};

constexpr int kScanThreads = 64;

// One token as loaded.
template <class T>
struct RawToken {
  T u;
  T dt;
  T z;
  bool valid;
};

// One token ready for the recurrence. A step of 0 leaves the state as it is.
struct ReadyToken {
  float step;
  float driven;  // step * u
  float u;
  float z;
  bool valid;
};

// values[i] of all Split threads, summed; thread i of the channel gets the sum of values[i].
template <int Split>
__device__ __forceinline__ float sum_across(float (&values)[Split], int place) {
  if constexpr (Split == 1) {
    return values[0];
  } else {
    static_assert(Split == 4);
    const bool upper = (place & 2) != 0;
    float first = upper ? values[2] : values[0];
    float second = upper ? values[3] : values[1];
    first += __shfl_xor_sync(0xFFFFFFFFu, upper ? values[0] : values[2], 2);
    second += __shfl_xor_sync(0xFFFFFFFFu, upper ? values[1] : values[3], 2);
    const bool odd = (place & 1) != 0;
    const float sent = odd ? first : second;
    return (odd ? second : first) + __shfl_xor_sync(0xFFFFFFFFu, sent, 1);
  }
}

template <class T, int Split, int States>
class CellScan {
 public:
  static constexpr int kWidth = Split * States;  // states of a channel, padding included
  // Tokens whose B and C lie in shared memory together.
  static constexpr int kTile = kWidth > 16 ? 16 : 32;
  // Ring of token indices: this tile and two ahead; four, so that a remainder is a mask.
  static constexpr int kPlaces = 4 * kTile;
  static constexpr int kStaged = kTile * kWidth / kScanThreads;
  static constexpr int kGroups = kTile / Split;
  static_assert(kTile * kWidth % kScanThreads == 0 && kTile % Split == 0);

  struct Shared {
    float B[2][kTile][kWidth];
    float C[2][kTile][kWidth];
    int32_t places[kPlaces];
  };

  __device__ __forceinline__ CellScan(const ScanArguments<T>& p, Shared& shared)
      : p_(p), shared_(shared), cell_(p.grid.cell(blockIdx.x)),
        length_(static_cast<int32_t>(cell_.tokens())), place_(threadIdx.x % Split),
        channel_(blockIdx.y * (kScanThreads / Split) + threadIdx.x / Split),
        live_(channel_ < p.channels),
        tokens_(static_cast<int64_t>(blockIdx.z) * p.grid.tokens()) {}

  __device__ __forceinline__ void run() {
    load_channel();
    locate(0);
    locate(1);
    __syncthreads();
    {
      float b[kStaged];
      float c[kStaged];
      fetch(0, b, c);
      put(0, b, c);
    }
    RawToken<T> raw = load(place_);
    ReadyToken ready = prepare(raw);
    raw = load(Split + place_);
    __syncthreads();

    const int32_t tiles = (length_ + kTile - 1) / kTile;
    for (int32_t tile = 0; tile < tiles; ++tile) {
      float b[kStaged];
      float c[kStaged];
      if (tile + 1 < tiles) fetch(tile + 1, b, c);
      locate(tile + 2);
#pragma unroll 1
      for (int group = 0; group < kGroups; ++group) {
        const int32_t step = tile * kTile + group * Split + place_;
        const RawToken<T> far = load(step + 2 * Split);
        const ReadyToken next = prepare(raw);
        scan_group(tile & 1, group * Split, step, ready);
        ready = next;
        raw = far;
      }
      if (tile + 1 < tiles) put((tile + 1) & 1, b, c);
      __syncthreads();
    }
    store_state();
  }

 private:
  __device__ __forceinline__ int64_t state_offset() const {
    const int64_t cell = static_cast<int64_t>(blockIdx.z) * p_.cells + blockIdx.x;
    return (cell * p_.channels + channel_) * p_.states;
  }

  __device__ __forceinline__ void load_channel() {
    bias_ = live_ ? p_.dt_bias[channel_] : 0.0f;
    skip_ = live_ ? p_.skip[channel_] : 0.0f;
#pragma unroll
    for (int s = 0; s < States; ++s) {
      const int n = place_ * States + s;
      const bool held = live_ && n < p_.states;
      const int64_t at = static_cast<int64_t>(channel_) * p_.states + n;
      decay_[s] = held ? p_.A[at] * static_cast<float>(kLog2E) : 0.0f;
      state_[s] = held ? p_.state[state_offset() + n] : 0.0f;
    }
  }

  __device__ __forceinline__ void store_state() const {
#pragma unroll
    for (int s = 0; s < States; ++s) {
      const int n = place_ * States + s;
      if (live_ && n < p_.states) p_.next_state[state_offset() + n] = state_[s];
    }
  }

  // Where a tile's tokens lie on the map; one division a token for the whole block.
  __device__ __forceinline__ void locate(int32_t tile) {
    const int32_t step = tile * kTile + threadIdx.x;
    if (threadIdx.x < kTile && step < length_) {
      const int32_t row = step / cell_.width;
      shared_.places[step % kPlaces] = (cell_.top + row) * p_.grid.cols.extent + cell_.left +
                                       (step - row * cell_.width);
    }
  }

  // A tile's B and C to registers; past the end and past the last state, zeros.
  __device__ __forceinline__ void fetch(int32_t tile, float (&b)[kStaged], float (&c)[kStaged]) {
#pragma unroll
    for (int i = 0; i < kStaged; ++i) {
      const int index = i * kScanThreads + threadIdx.x;
      const int32_t step = tile * kTile + index / kWidth;
      const int n = index % kWidth;
      const bool held = step < length_ && n < p_.states;
      const int64_t token = held ? tokens_ + shared_.places[step % kPlaces] : 0;
      b[i] = held ? widen(p_.B[token * p_.states + n]) : 0.0f;
      c[i] = held ? widen(p_.C[token * p_.states + n]) : 0.0f;
    }
  }

  __device__ __forceinline__ void put(int buffer, const float (&b)[kStaged],
                                      const float (&c)[kStaged]) {
#pragma unroll
    for (int i = 0; i < kStaged; ++i) {
      const int index = i * kScanThreads + threadIdx.x;
      shared_.B[buffer][index / kWidth][index % kWidth] = b[i];
      shared_.C[buffer][index / kWidth][index % kWidth] = c[i];
    }
  }

  __device__ __forceinline__ int64_t map_offset(int32_t step) const {
    return (tokens_ + shared_.places[step % kPlaces]) * p_.channels + channel_;
  }

  __device__ __forceinline__ RawToken<T> load(int32_t step) const {
    RawToken<T> raw{narrow<T>(0.0f), narrow<T>(0.0f), narrow<T>(0.0f), live_ && step < length_};
    if (raw.valid) {
      const int64_t at = map_offset(step);
      raw.u = p_.u[at];
      raw.dt = p_.dt[at];
      raw.z = p_.z[at];
    }
    return raw;
  }

  __device__ __forceinline__ ReadyToken prepare(const RawToken<T>& raw) const {
    const float u = widen(raw.u);
    const float step = raw.valid ? softplus<DeviceMath>(widen(raw.dt) + bias_) : 0.0f;
    return {step, step * u, u, widen(raw.z), raw.valid};
  }

  __device__ __forceinline__ void scan_group(int buffer, int first, int32_t step,
                                             const ReadyToken& ready) {
    float sums[Split];
#pragma unroll
    for (int j = 0; j < Split; ++j) {
      const float dt = Split == 1 ? ready.step : __shfl_sync(0xFFFFFFFFu, ready.step, j, Split);
      const float driven =
          Split == 1 ? ready.driven : __shfl_sync(0xFFFFFFFFu, ready.driven, j, Split);
      const float* B = &shared_.B[buffer][first + j][place_ * States];
      const float* C = &shared_.C[buffer][first + j][place_ * States];
      float sum = 0.0f;
#pragma unroll
      for (int s = 0; s < States; ++s) {
        state_[s] = advance<DeviceMath>(
            state_[s], DeviceMath::exp2(DeviceMath::mul(dt, decay_[s])), driven, B[s]);
        sum = fmaf(state_[s], C[s], sum);
      }
      sums[j] = sum;
    }
    const float scanned = sum_across<Split>(sums, place_);
    if (ready.valid) {
      p_.y[map_offset(step)] = narrow<T>(gate<DeviceMath>(scanned, skip_, ready.u, ready.z));
    }
  }

  const ScanArguments<T>& p_;
  Shared& shared_;
  const Cell cell_;
  const int32_t length_;
  const int place_;
  const int32_t channel_;
  const bool live_;
  const int64_t tokens_;
  float bias_;
  float skip_;
  float decay_[States];
  float state_[States];
};

// Grid: cells, channel blocks, batch.
template <class T, int Split, int States>
__global__ void __launch_bounds__(kScanThreads)
    selective_scan_kernel(const __grid_constant__ ScanArguments<T> p) {
  using Scan = CellScan<T, Split, States>;
  __shared__ __align__(16) typename Scan::Shared shared;
  Scan(p, shared).run();
}

}  // namespace streamseg::cuda
