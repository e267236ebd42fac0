// Kernels for NEON with matrix products of 8-bit integers; null if the target has no such instructions.
#include "problem.h"

#if defined(__ARM_FEATURE_MATMUL_INT8)
#include "kernels.h"
#include "products_neonmatrix.h"

const streamseg::KernelTable<float>* streamseg::neoni8mm_kernels() {
  return kernel_table<NeonLanes, NeonEightProducts>("neoni8mm");
}
#else
const streamseg::KernelTable<float>* streamseg::neoni8mm_kernels() { return nullptr; }
#endif
