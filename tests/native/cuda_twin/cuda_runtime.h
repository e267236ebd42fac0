// As much of CUDA as the kernels use, on one CPU thread. Every thread of a block is a fibre, and a
// seeded random one of those that may run does so until it waits or ends: a barrier that is missing
// shows, as it need not on a GPU. A copy to shared memory poisons its target when it starts, and
// arrives as late as it may.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  uint32_t x, y, z;
  dim3(uint32_t x_ = 1, uint32_t y_ = 1, uint32_t z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct __align__(8) float2 {
  float x, y;
};
struct __align__(8) uint2 {
  uint32_t x, y;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuda_twin {

constexpr size_t kStack = 256 * 1024;
constexpr int kWarp = 32;

struct Copy {
  void* to;
  const void* from;  // null writes zeros
  size_t bytes;
};

struct Fibre {
  ucontext_t context;
  bool done = false;
  int waits_for = -1;  // a barrier: 0 the block's, 1 + warp a warp's
  std::vector<Copy> copies;
};

struct Block {
  dim3 thread;  // of the fibre that runs
  dim3 index;
  int current = 0;
  uint32_t random = 1;
  ucontext_t scheduler;
  std::vector<Fibre> fibres;
  std::function<void()> body;
};

inline Block& block() {
  static Block shared;
  return shared;
}

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "CUDA twin: %s\n", what);
  std::abort();
}

inline void wait_at(int barrier) {
  Block& b = block();
  b.fibres[b.current].waits_for = barrier;
  swapcontext(&b.fibres[b.current].context, &b.scheduler);
}

inline void wait_for_copies() {
  Block& b = block();
  for (const Copy& copy : b.fibres[b.current].copies) {
    if (copy.from != nullptr) std::memcpy(copy.to, copy.from, copy.bytes);
    if (copy.from == nullptr) std::memset(copy.to, 0, copy.bytes);
  }
  b.fibres[b.current].copies.clear();
}

inline void copy_async(void* to, const void* from, size_t bytes, bool held) {
  const auto aligned = [&](const void* at) { return reinterpret_cast<uintptr_t>(at) % bytes == 0; };
  require(aligned(to) && aligned(from), "an asynchronous copy is not aligned");
  std::memset(to, 0xff, bytes);
  Block& b = block();
  b.fibres[b.current].copies.push_back({to, held ? from : nullptr, bytes});
}

inline void enter() {
  Block& b = block();
  b.body();
  b.fibres[b.current].done = true;
  swapcontext(&b.fibres[b.current].context, &b.scheduler);
}

// Opens a barrier that every thread which can still reach it has reached.
inline void open_barrier(int barrier) {
  Block& b = block();
  const int threads = static_cast<int>(b.fibres.size());
  const int first = barrier == 0 ? 0 : (barrier - 1) * kWarp;
  const int last = barrier == 0 ? threads : std::min(first + kWarp, threads);
  for (int t = first; t < last; ++t) {
    if (!b.fibres[t].done && b.fibres[t].waits_for != barrier) return;
  }
  for (int t = first; t < last; ++t) b.fibres[t].waits_for = -1;
}

inline void run_block(std::vector<std::unique_ptr<char[]>>& stacks) {
  Block& b = block();
  const int threads = static_cast<int>(b.fibres.size());
  for (int t = 0; t < threads; ++t) {
    Fibre& fibre = b.fibres[t];
    fibre = Fibre();
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stacks[t].get();
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, enter, 0);
  }
  std::vector<int> ready;
  for (;;) {
    ready.clear();
    bool alive = false;
    for (int t = 0; t < threads; ++t) {
      alive = alive || !b.fibres[t].done;
      if (!b.fibres[t].done && b.fibres[t].waits_for < 0) ready.push_back(t);
    }
    if (!alive) return;
    require(!ready.empty(), "threads wait for different barriers");
    // All that can run do, in a random order, as far as they get.
    for (size_t left = ready.size(); left > 0; --left) {
      b.random = b.random * 1664525u + 1013904223u;
      std::swap(ready[(b.random >> 8) % left], ready[left - 1]);
      const int t = ready[left - 1];
      do {
        b.current = t;
        b.thread = dim3(static_cast<uint32_t>(t), 0, 0);
        swapcontext(&b.scheduler, &b.fibres[t].context);
        if (b.fibres[t].waits_for >= 0) open_barrier(b.fibres[t].waits_for);
        if (b.fibres[t].done) {
          open_barrier(0);
          open_barrier(1 + t / kWarp);
        }
      } while (!b.fibres[t].done && b.fibres[t].waits_for < 0);
    }
  }
}

}  // namespace cuda_twin

#define threadIdx (cuda_twin::block().thread)
#define blockIdx (cuda_twin::block().index)

inline void __syncthreads() { cuda_twin::wait_at(0); }
inline void __syncwarp() { cuda_twin::wait_at(1 + cuda_twin::block().current / cuda_twin::kWarp); }

namespace cuda_twin {

// The special-function unit's 2^t: exact here, or off by a share of its value that a test sets to
// the largest that CUDA allows.
inline float& exp2_error() {
  static float error = 0.0f;
  return error;
}
inline float special_exp2(float t) {
  return static_cast<float>(std::exp2(static_cast<double>(t)) * (1.0 + exp2_error()));
}

// Results below the smallest normal number are 0.
inline float reciprocal(float x) { return std::fabs(x) > 0x1p126f ? std::copysign(0.0f, x) : 1.0f / x; }

}  // namespace cuda_twin

extern "C" __attribute__((visibility("default"), used)) inline void streamseg_cuda_twin_exp2_error(
    float error) {
  cuda_twin::exp2_error() = error;
}

using std::max;
using std::min;

namespace streamseg::cuda {

template <class... Arguments>
void launch_kernel(const char*, void (*kernel)(Arguments...), dim3 grid, int threads, void*,
                   Arguments... arguments) {
  auto& b = cuda_twin::block();
  std::vector<std::unique_ptr<char[]>> stacks;
  for (int t = 0; t < threads; ++t) stacks.emplace_back(new char[cuda_twin::kStack]);
  b.fibres.resize(threads);
  b.body = [&] { kernel(arguments...); };
  for (uint32_t z = 0; z < grid.z; ++z) {
    for (uint32_t y = 0; y < grid.y; ++y) {
      for (uint32_t x = 0; x < grid.x; ++x) {
        b.index = dim3(x, y, z);
        cuda_twin::run_block(stacks);
      }
    }
  }
}

}  // namespace streamseg::cuda
