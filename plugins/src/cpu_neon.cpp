// Kernels for NEON; null if the target has no such instructions.
#include "problem.h"

#if defined(__aarch64__)
#include "kernels.h"
#include "lanes_neon.h"

const streamseg::KernelTable<float>* streamseg::neon_kernels() {
  return kernel_table<NeonLanes>("neon");
}
#else
const streamseg::KernelTable<float>* streamseg::neon_kernels() { return nullptr; }
#endif
