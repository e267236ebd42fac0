// Kernels for NEON with dot products of 8-bit integers; null if the target has no such instructions.
#include "problem.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels.h"
#include "products_neon.h"

const streamseg::KernelTable<float>* streamseg::neondot_kernels() {
  return kernel_table<NeonLanes, QuadProducts<NeonLanes, NeonQuads>>("neondot");
}
#else
const streamseg::KernelTable<float>* streamseg::neondot_kernels() { return nullptr; }
#endif
