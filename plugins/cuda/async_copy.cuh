// Copies of 16 bytes from global to shared memory that run while the thread computes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace streamseg::cuda {

constexpr int kPieceBytes = 16;

// Both addresses are multiples of 16. Where `held` is false, nothing is read and zeros are written.
// The bytes arrive before `wait_for_copies` of the same thread returns.
__device__ __forceinline__ void copy_piece(void* shared, const void* global, bool held) {
#if !defined(__CUDACC__)
  cuda_twin::copy_async(shared, global, kPieceBytes, held);
#elif __CUDA_ARCH__ >= 800
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(held ? kPieceBytes : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) =
      held ? *static_cast<const uint4*>(global) : make_uint4(0u, 0u, 0u, 0u);
#endif
}

// Of this thread; other threads need a barrier after it.
__device__ __forceinline__ void wait_for_copies() {
#if !defined(__CUDACC__)
  cuda_twin::wait_for_copies();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace streamseg::cuda
