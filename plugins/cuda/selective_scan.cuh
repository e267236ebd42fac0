// The windowed selective scan: softplus, recurrence, skip and gate of one frame.
//
// A block walks one cell for 16 channels, in tiles of 16 or 32 tokens. While a tile is computed, the next
// one's maps travel from global to shared memory in pieces of 16 bytes. A warp has 8 channels and
// does three things with 16 tokens: it prepares the tokens (bias, softplus), two channels a thread; it
// runs the recurrence, four threads a channel, each with a quarter of the channel's states in
// registers; and it finishes the tokens (sum over the four, skip, gate, store), two channels a
// thread again. Between them values go through shared memory, where the next reader is never in
// another warp.
#pragma once

#include "async_copy.cuh"
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
constexpr int kScanSplit = 4;  // threads of a channel

// Pieces: all maps can be read 16 bytes at a time.
template <class T, int States, bool Pieces>
class CellScan {
 public:
  static constexpr int kWidth = kScanSplit * States;  // states of a channel, padding included
  static constexpr int kChannels = kScanThreads / kScanSplit;
  // Tokens that travel together, and those of them that are computed together. A tile of float16
  // and one of float32 have as many pieces as there are threads.
  static constexpr int kTile = sizeof(T) == 2 && States <= 4 ? 32 : 16;
  static constexpr int kGroup = 16;
  static constexpr int kWarps = kScanThreads / 32;
  static constexpr int kWarpChannels = 32 / kScanSplit;
  static constexpr int kPairs = kWarpChannels / 2;
  static constexpr int kRound = 32 / kPairs;  // tokens that a warp prepares at once
  static constexpr int kPiece = kPieceBytes / sizeof(T);
  static constexpr bool kWiden = sizeof(T) < sizeof(float);
  // Where half the threads have a map's pieces, the other half has those of B and C.
  static constexpr int kStateFirst = kTile * kChannels / kPiece < kScanThreads ? kScanThreads / 2 : 0;
  // Token indices are found for as many tiles at once as there are threads for; two such spans.
  static constexpr int kSpan = kScanThreads / kTile;
  static constexpr int kPlaces = 2 * kScanThreads;
  // A row of partial sums and what keeps the finishing reads free of bank conflicts.
  static constexpr int kSums = 32 + 4;
  static_assert(kTile <= kScanThreads && kTile % kGroup == 0 && kGroup % kRound == 0 &&
                States % 4 == 0);

  struct Shared {
    T u[2][kTile][kChannels];
    T dt[2][kTile][kChannels];
    T z[2][kTile][kChannels];
    float B[2][kTile][kWidth];
    float C[2][kTile][kWidth];
    T raw_B[kWiden ? kTile : 1][kWidth];
    T raw_C[kWiden ? kTile : 1][kWidth];
    float2 ready[kWarps][kGroup][kWarpChannels];  // step, step * u
    float sums[kWarps][kGroup][kSums];
    int32_t places[kPlaces];
  };

  __device__ __forceinline__ CellScan(const ScanArguments<T>& p, Shared& shared)
      : p_(p), shared_(shared), cell_(p.grid.cell(blockIdx.x)),
        length_(static_cast<int32_t>(cell_.tokens())), first_(blockIdx.y * kChannels),
        tokens_(static_cast<int64_t>(blockIdx.z) * p.grid.tokens()), warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32), place_(threadIdx.x % kScanSplit),
        channel_(first_ + threadIdx.x / kScanSplit), pair_(lane_ % kPairs * 2) {}

  __device__ __forceinline__ void run() {
    locate(0);
    __syncthreads();
    fetch(0);
    load_channels();
    const int32_t tiles = (length_ + kTile - 1) / kTile;
#pragma unroll 1
    for (int32_t tile = 0; tile < tiles; ++tile) {
      wait_for_copies();
      if constexpr (kWiden && Pieces) widen_states(tile);
      __syncthreads();  // the tile has arrived, and nobody is in the one before it
      if (tile + 1 < tiles) fetch(tile + 1);
      if (tile % kSpan == 0) locate(tile / kSpan + 1);
#pragma unroll 1
      for (int first = 0; first < kTile && tile * kTile + first < length_; first += kGroup) {
        prepare(tile, first);
        __syncwarp();
        scan(tile & 1, first);
        __syncwarp();
        finish(tile, first);
      }
    }
    store_state();
  }

 private:
  __device__ __forceinline__ int64_t state_offset() const {
    const int64_t cell = static_cast<int64_t>(blockIdx.z) * p_.cells + blockIdx.x;
    return (cell * p_.channels + channel_) * p_.states;
  }

  __device__ __forceinline__ void load_channels() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t channel = first_ + warp_ * kWarpChannels + pair_ + i;
      bias_[i] = channel < p_.channels ? p_.dt_bias[channel] : 0.0f;
      skip_[i] = channel < p_.channels ? p_.skip[channel] : 0.0f;
    }
#pragma unroll
    for (int s = 0; s < States; ++s) {
      const int n = place_ * States + s;
      const bool held = channel_ < p_.channels && n < p_.states;
      const int64_t at = static_cast<int64_t>(channel_) * p_.states + n;
      decay_[s] = held ? p_.A[at] * static_cast<float>(kLog2E) : 0.0f;
      state_[s] = held ? p_.state[state_offset() + n] : 0.0f;
    }
  }

  __device__ __forceinline__ void store_state() const {
#pragma unroll
    for (int s = 0; s < States; ++s) {
      const int n = place_ * States + s;
      if (channel_ < p_.channels && n < p_.states) p_.next_state[state_offset() + n] = state_[s];
    }
  }

  // Where a span's tokens lie on the map; one division a token for the whole block.
  __device__ __forceinline__ void locate(int32_t span) {
    const int32_t step = span * kScanThreads + threadIdx.x;
    if (step < length_) {
      const int32_t row = step / cell_.width;
      shared_.places[step % kPlaces] = (cell_.top + row) * p_.grid.cols.extent + cell_.left +
                                       (step - row * cell_.width);
    }
  }

  // Of row `step` in a map whose rows have `columns` values.
  __device__ __forceinline__ int64_t offset(int32_t step, int32_t columns) const {
    const uint32_t place = shared_.places[static_cast<uint32_t>(step) % kPlaces];
    return static_cast<int64_t>(static_cast<uint64_t>(place) * static_cast<uint32_t>(columns));
  }

  // Calls copy(token, column, offset, held) for the pieces of a tile's rows that this thread takes;
  // thread `First` has the first. Rows have `columns` values, the block wants `Columns` of them.
  template <int Columns, int First, class Copy>
  __device__ __forceinline__ void each_piece(int32_t tile, int32_t columns, int32_t present,
                                             const Copy& copy) const {
    constexpr int kPieces = Columns / kPiece;
    constexpr int kCount = kTile * kPieces;
    constexpr int kRounds = (kCount + kScanThreads - 1) / kScanThreads;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int i = (threadIdx.x + kScanThreads - First) % kScanThreads + round * kScanThreads;
      if (kCount % kScanThreads == 0 || i < kCount) {
        const int token = i / kPieces;
        const int32_t column = i % kPieces * kPiece;
        const int32_t step = tile * kTile + token;
        const bool held = step < length_ && column < present;
        copy(token, column, held ? offset(step, columns) + column : 0, held);
      }
    }
  }

  // The same one value at a time, for maps that pieces do not fit.
  template <int Columns, class To>
  __device__ __forceinline__ void copy_values(int32_t tile, const T* from, int32_t columns,
                                              int32_t held, To (*to)[Columns]) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < kTile * Columns; i += kScanThreads) {
      const int32_t step = tile * kTile + i / Columns;
      const int32_t column = i % Columns;
      const bool there = step < length_ && column < held;
      to[i / Columns][column] =
          there ? narrow<To>(widen(from[offset(step, columns) + column])) : narrow<To>(0.0f);
    }
  }

  __device__ __forceinline__ void fetch(int32_t tile) {
    const int slot = tile & 1;
    const int64_t map = tokens_ * p_.channels + first_;
    const T* u = p_.u + map;
    const T* dt = p_.dt + map;
    const T* z = p_.z + map;
    const int32_t present = p_.channels - first_;
    const T* B = p_.B + tokens_ * p_.states;
    const T* C = p_.C + tokens_ * p_.states;
    if constexpr (Pieces) {
      each_piece<kChannels, 0>(tile, p_.channels, present,
                               [&](int token, int32_t column, int64_t from, bool held) {
                                 copy_piece(&shared_.u[slot][token][column], u + from, held);
                                 copy_piece(&shared_.dt[slot][token][column], dt + from, held);
                                 copy_piece(&shared_.z[slot][token][column], z + from, held);
                               });
      each_piece<kWidth, kStateFirst>(tile, p_.states, p_.states,
                                      [&](int token, int32_t column, int64_t from, bool held) {
                                        copy_piece(state_piece(shared_.raw_B, shared_.B[slot],
                                                               token, column), B + from, held);
                                        copy_piece(state_piece(shared_.raw_C, shared_.C[slot],
                                                               token, column), C + from, held);
                                      });
    } else {
      copy_values(tile, u, p_.channels, present, shared_.u[slot]);
      copy_values(tile, dt, p_.channels, present, shared_.dt[slot]);
      copy_values(tile, z, p_.channels, present, shared_.z[slot]);
      copy_values(tile, B, p_.states, p_.states, shared_.B[slot]);
      copy_values(tile, C, p_.states, p_.states, shared_.C[slot]);
    }
  }

  // Where a piece of B or C arrives.
  template <class Raw>
  __device__ __forceinline__ static void* state_piece(Raw& raw, float (&wide)[kTile][kWidth],
                                                      int token, int32_t column) {
    if constexpr (kWiden) {
      return &raw[token][column];
    } else {
      return &wide[token][column];
    }
  }

  // Every thread widens the pieces that it copied, which have arrived.
  __device__ __forceinline__ void widen_states(int32_t tile) {
    const int slot = tile & 1;
    each_piece<kWidth, kStateFirst>(tile, 0, kWidth, [&](int token, int32_t column, int64_t, bool) {
      widen_piece(&shared_.raw_B[token][column], &shared_.B[slot][token][column]);
      widen_piece(&shared_.raw_C[token][column], &shared_.C[slot][token][column]);
    });
  }

  __device__ __forceinline__ static void widen_piece(const T* raw, float* to) {
#pragma unroll
    for (int k = 0; k < kPiece; k += 4) {
      *reinterpret_cast<float4*>(to + k) = widen_four(raw_four(raw + k));
    }
  }

  // Tokens past the end get a step of 0, which leaves the state as it is.
  __device__ __forceinline__ void prepare(int32_t tile, int first) {
    const int slot = tile & 1;
    const int column = warp_ * kWarpChannels + pair_;
#pragma unroll
    for (int round = 0; round < kGroup; round += kRound) {
      const int token = round + lane_ / kPairs;
      const bool valid = tile * kTile + first + token < length_;
      const float2 dt = load_pair(&shared_.dt[slot][first + token][column]);
      const float2 u = load_pair(&shared_.u[slot][first + token][column]);
      const float even = softplus<DeviceMath>(valid ? dt.x + bias_[0] : -INFINITY);
      const float odd = softplus<DeviceMath>(valid ? dt.y + bias_[1] : -INFINITY);
      *reinterpret_cast<float4*>(&shared_.ready[warp_][token][pair_]) =
          make_float4(even, even * u.x, odd, odd * u.y);
    }
  }

  // What the recurrence needs of a token.
  struct Token {
    float2 step;
    float4 B[States / 4];
    float4 C[States / 4];
  };

  __device__ __forceinline__ Token token(int slot, int first, int index) const {
    Token out;
    out.step = shared_.ready[warp_][index][lane_ / kScanSplit];
#pragma unroll
    for (int s = 0; s < States / 4; ++s) {
      out.B[s] = load_four(&shared_.B[slot][first + index][place_ * States + 4 * s]);
      out.C[s] = load_four(&shared_.C[slot][first + index][place_ * States + 4 * s]);
    }
    return out;
  }

  __device__ __forceinline__ void scan(int slot, int first) {
    Token now = token(slot, first, 0);
#pragma unroll
    for (int index = 0; index < kGroup; ++index) {
      const Token ahead = token(slot, first, index + 1 < kGroup ? index + 1 : index);
      float sum = 0.0f;
#pragma unroll
      for (int s = 0; s < States / 4; ++s) {
        sum = fmaf(next(4 * s, now.step, now.B[s].x), now.C[s].x, sum);
        sum = fmaf(next(4 * s + 1, now.step, now.B[s].y), now.C[s].y, sum);
        sum = fmaf(next(4 * s + 2, now.step, now.B[s].z), now.C[s].z, sum);
        sum = fmaf(next(4 * s + 3, now.step, now.B[s].w), now.C[s].w, sum);
      }
      shared_.sums[warp_][index][lane_] = sum;
      now = ahead;
    }
  }

  __device__ __forceinline__ float next(int s, const float2& step, float b) {
    const float decay = DeviceMath::exp2(DeviceMath::mul(step.x, decay_[s]));
    state_[s] = advance<DeviceMath>(state_[s], decay, step.y, b);
    return state_[s];
  }

  __device__ __forceinline__ void finish(int32_t tile, int first) {
    const int slot = tile & 1;
    const int column = warp_ * kWarpChannels + pair_;
    T* y = p_.y + tokens_ * p_.channels + first_ + column;
#pragma unroll
    for (int round = 0; round < kGroup; round += kRound) {
      const int token = round + lane_ / kPairs;
      const int32_t step = tile * kTile + first + token;
      const float4 a = load_four(&shared_.sums[warp_][token][pair_ * kScanSplit]);
      const float4 b = load_four(&shared_.sums[warp_][token][(pair_ + 1) * kScanSplit]);
      const float2 u = load_pair(&shared_.u[slot][first + token][column]);
      const float2 z = load_pair(&shared_.z[slot][first + token][column]);
      const float even = gate<DeviceMath>((a.x + a.y) + (a.z + a.w), skip_[0], u.x, z.x);
      const float odd = gate<DeviceMath>((b.x + b.y) + (b.z + b.w), skip_[1], u.y, z.y);
      if (step < length_) {
        const int32_t present = p_.channels - first_ - column;
        T* at = y + offset(step, p_.channels);
        if constexpr (Pieces) {
          if (present > 0) store_pair(at, even, odd);
        } else {
          if (present > 0) at[0] = narrow<T>(even);
          if (present > 1) at[1] = narrow<T>(odd);
        }
      }
    }
  }

  const ScanArguments<T>& p_;
  Shared& shared_;
  const Cell cell_;
  const int32_t length_;
  const int32_t first_;  // channel of the block
  const int64_t tokens_;
  const int warp_;
  const int lane_;
  const int place_;        // of the thread in its channel's recurrence
  const int32_t channel_;  // in the recurrence
  const int pair_;         // first of the thread's two channels, else; within the warp's
  float bias_[2];
  float skip_[2];
  float decay_[States];
  float state_[States];
};

// Grid: cells, channel blocks, batch.
template <class T, int States, bool Pieces>
__global__ void __launch_bounds__(kScanThreads)
    selective_scan_kernel(const __grid_constant__ ScanArguments<T> p) {
  using Scan = CellScan<T, States, Pieces>;
  __shared__ __align__(16) typename Scan::Shared shared;
  Scan(p, shared).run();
}

}  // namespace streamseg::cuda
