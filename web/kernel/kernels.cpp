// The operators for WebAssembly: the CPU kernels over four lanes, called from JavaScript on one thread.
//
// Pointers are offsets into the module's memory, which the caller fills. Shapes were checked when the
// site was written; the caller must not pass others.
#include <cstdlib>

#include "kernels.h"
#include "lanes_wasm.h"
#include "problem.h"

#define EXPORT(name) __attribute__((export_name(name)))

namespace streamseg {

Scratch::~Scratch() { std::free(memory_); }

void* Scratch::reserve(size_t bytes) {
  if (bytes > size_) {
    std::free(memory_);
    size_ = (bytes + 4095) / 4096 * 4096;
    memory_ = std::aligned_alloc(64, size_);
    if (memory_ == nullptr) __builtin_trap();
  }
  return memory_;
}

namespace {

constexpr int64_t kChannels = 512;  // of one piece of work, so that its state stays in the cache

Scratch& scratch() {
  static Scratch memory;
  return memory;
}

WindowGrid grid(int32_t map_h, int32_t map_w, int32_t window_h, int32_t window_w, int32_t offset_h,
                int32_t offset_w) {
  return {{map_h, window_h, offset_h}, {map_w, window_w, offset_w}};
}

template <class Run>
void each_item(const WindowGrid& cells, int64_t channels, const Run& run) {
  for (int64_t cell = 0; cell < cells.cells(); ++cell) {
    for (int64_t c = 0; c < channels; c += kChannels) {
      run(Item{0, cell, c, c + kChannels < channels ? c + kChannels : channels});
    }
  }
}

}  // namespace
}  // namespace streamseg

using namespace streamseg;

extern "C" {

EXPORT("allocate") void* allocate(uint32_t bytes) {
  return std::aligned_alloc(64, (bytes + 63u) / 64u * 64u);
}

EXPORT("release") void release(void* memory) { std::free(memory); }

// [round_up(channels, 4), states] numbers: the argument `decay` of `scan`.
EXPORT("pack_decay") void pack_decay(const float* A, int32_t channels, int32_t states, float* out) {
  ScanKernel<WasmLanes>::pack_decay(A, channels, states, out);
}

EXPORT("conv") void conv(int32_t map_h, int32_t map_w, int32_t window_h, int32_t window_w,
                         int32_t offset_h, int32_t offset_w, int32_t channels, int32_t taps,
                         const float* x, const float* weight, const float* bias,
                         const float* state, float* y, float* next_state) {
  const ConvProblem<float> problem{
      grid(map_h, map_w, window_h, window_w, offset_h, offset_w), 1, channels, taps, x, weight,
      bias, state, y, next_state};
  each_item(problem.grid, channels, [&](const Item& item) { ConvKernel<WasmLanes>::run(problem, item, scratch()); });
}

EXPORT("scan") void scan(int32_t map_h, int32_t map_w, int32_t window_h, int32_t window_w,
                         int32_t offset_h, int32_t offset_w, int32_t channels, int32_t states,
                         const float* u, const float* dt, const float* dt_bias, const float* A,
                         const float* B, const float* C, const float* skip, const float* z,
                         const float* state, float* y, float* next_state, const float* decay) {
  const ScanProblem<float> problem{
      grid(map_h, map_w, window_h, window_w, offset_h, offset_w), 1, channels, states, u, dt,
      dt_bias, A, B, C, skip, z, state, y, next_state, decay};
  each_item(problem.grid, channels, [&](const Item& item) { ScanKernel<WasmLanes>::run(problem, item, scratch()); });
}

}  // extern "C"
