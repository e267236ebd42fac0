// Kernels for AVX2 with AVX-VNNI; null if the target has no such instructions.
#include "problem.h"

#if defined(__AVXVNNI__)
#include "kernels.h"
#include "products_avx2.h"

const streamseg::KernelTable<float>* streamseg::avx2vnni_kernels() {
  using Quads = QuadProducts<Avx2Lanes, Avx2Quads>;
  return kernel_table<Avx2Lanes, ShortProducts<Quads, Avx2Lanes, Avx2Shorts>>("avx2vnni");
}
#else
const streamseg::KernelTable<float>* streamseg::avx2vnni_kernels() { return nullptr; }
#endif
