// Kernels for AVX-512 with VNNI; null if the target has no such instructions.
#include "problem.h"

#if defined(__AVX512VNNI__)
#include "kernels.h"
#include "products_avx512.h"

const streamseg::KernelTable<float>* streamseg::avx512vnni_kernels() {
  using Quads = QuadProducts<Avx512Lanes, Avx512Quads>;
  return kernel_table<Avx512Lanes, ShortProducts<Quads, Avx512Lanes, Avx512Shorts>>("avx512vnni");
}
#else
const streamseg::KernelTable<float>* streamseg::avx512vnni_kernels() { return nullptr; }
#endif
