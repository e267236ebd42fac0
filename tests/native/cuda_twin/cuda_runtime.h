// As much of CUDA as the kernels use, on one CPU thread: every thread of a block is a fibre, and
// all of them run up to the next barrier or shuffle before any goes on. Slow, deterministic.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
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
#define __launch_bounds__(n)
#define __grid_constant__

struct dim3 {
  uint32_t x, y, z;
  dim3(uint32_t x_ = 1, uint32_t y_ = 1, uint32_t z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace cuda_twin {

constexpr size_t kStack = 256 * 1024;
constexpr int kMaxThreads = 1024;

struct Block {
  dim3 thread;  // of the fibre that runs
  dim3 index;
  int current = 0;
  int threads = 0;
  ucontext_t scheduler;
  std::vector<ucontext_t> fibres;
  std::vector<bool> done;
  uint64_t slots[kMaxThreads];
  std::function<void()> body;
};

inline Block& block() {
  static Block shared;
  return shared;
}

inline void wait() { swapcontext(&block().fibres[block().current], &block().scheduler); }

inline void enter() {
  Block& b = block();
  b.body();
  b.done[b.current] = true;
  swapcontext(&b.fibres[b.current], &b.scheduler);
}

inline void run_block(std::vector<std::unique_ptr<char[]>>& stacks) {
  Block& b = block();
  b.done.assign(b.threads, false);
  for (int t = 0; t < b.threads; ++t) {
    getcontext(&b.fibres[t]);
    b.fibres[t].uc_stack.ss_sp = stacks[t].get();
    b.fibres[t].uc_stack.ss_size = kStack;
    b.fibres[t].uc_link = nullptr;
    makecontext(&b.fibres[t], enter, 0);
  }
  for (bool alive = true; alive;) {
    alive = false;
    for (int t = 0; t < b.threads; ++t) {
      if (b.done[t]) continue;
      alive = true;
      b.current = t;
      b.thread = dim3(static_cast<uint32_t>(t), 0, 0);
      swapcontext(&b.scheduler, &b.fibres[t]);
    }
  }
}

template <class T>
T exchange(T value, int from) {
  static_assert(sizeof(T) <= 8);
  Block& b = block();
  const int self = b.current;
  std::memcpy(&b.slots[self], &value, sizeof value);
  wait();
  T out;
  std::memcpy(&out, &b.slots[from], sizeof out);
  wait();
  return out;
}

}  // namespace cuda_twin

#define threadIdx (cuda_twin::block().thread)
#define blockIdx (cuda_twin::block().index)

inline void __syncthreads() { cuda_twin::wait(); }

template <class T>
T __shfl_sync(unsigned, T value, int source, int width) {
  const int self = cuda_twin::block().current;
  return cuda_twin::exchange(value, self / width * width + source);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_twin::exchange(value, cuda_twin::block().current ^ mask);
}

// The special-function unit's 2^t: exact here, or off by a share of its value that a test sets to
// the largest that CUDA allows.
namespace cuda_twin {
inline float& exp2_error() {
  static float error = 0.0f;
  return error;
}
inline float special_exp2(float t) {
  return static_cast<float>(std::exp2(static_cast<double>(t)) * (1.0 + exp2_error()));
}
}  // namespace cuda_twin

extern "C" __attribute__((visibility("default"), used)) inline void streamseg_cuda_twin_exp2_error(
    float error) {
  cuda_twin::exp2_error() = error;
}

inline float __fdividef(float a, float b) { return a / b; }
using std::max;
using std::min;

namespace streamseg::cuda {

template <class... Arguments>
void launch_kernel(const char*, void (*kernel)(Arguments...), dim3 grid, int threads, void*,
                   Arguments... arguments) {
  auto& b = cuda_twin::block();
  std::vector<std::unique_ptr<char[]>> stacks;
  for (int t = 0; t < threads; ++t) stacks.emplace_back(new char[cuda_twin::kStack]);
  b.threads = threads;
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
