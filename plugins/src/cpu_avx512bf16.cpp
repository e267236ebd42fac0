// Kernels for AVX-512 with VNNI and BF16; null if the target has no such instructions.
#include "problem.h"

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#include "kernels.h"
#include "products_avx512bf16.h"

const streamseg::KernelTable<float>* streamseg::avx512bf16_kernels() {
  return kernel_table<Avx512Lanes, PairProducts<>>("avx512bf16");
}
bool streamseg::avx512bf16_is_fast() { return pairs_are_fast(); }
#else
const streamseg::KernelTable<float>* streamseg::avx512bf16_kernels() { return nullptr; }
bool streamseg::avx512bf16_is_fast() { return false; }
#endif
