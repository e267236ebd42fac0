// Kernels for NEON with matrix products of 8-bit integers and of bfloat16 numbers; null if the target
// has no such instructions.
#include "problem.h"

#if defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "kernels.h"
#include "products_neonbf16.h"

const streamseg::KernelTable<float>* streamseg::neonbf16_kernels() {
  return kernel_table<NeonLanes, NeonFourProducts>("neonbf16");
}
bool streamseg::neonbf16_is_fast() { return fours_are_fast(); }
#else
const streamseg::KernelTable<float>* streamseg::neonbf16_kernels() { return nullptr; }
bool streamseg::neonbf16_is_fast() { return false; }
#endif
