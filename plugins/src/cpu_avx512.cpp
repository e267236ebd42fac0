// Kernels for AVX-512 (F, DQ, BW, VL); null if the target has no such instructions.
#include "problem.h"

#if defined(__AVX512F__)
#include "kernels.h"
#include "lanes_avx512.h"

const streamseg::KernelTable<float>* streamseg::avx512_kernels() {
  return kernel_table<Avx512Lanes>("avx512");
}
#else
const streamseg::KernelTable<float>* streamseg::avx512_kernels() { return nullptr; }
#endif
