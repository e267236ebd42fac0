// Kernels for AVX2 and FMA; null if the target has no such instructions.
#include "problem.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "kernels.h"
#include "lanes_avx2.h"

const streamseg::KernelTable<float>* streamseg::avx2_kernels() {
  return kernel_table<Avx2Lanes>("avx2");
}
#else
const streamseg::KernelTable<float>* streamseg::avx2_kernels() { return nullptr; }
#endif
