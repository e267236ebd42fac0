// Kernels for AVX-512 with VNNI and BF16, and AMX's tiles; null if the target has no such instructions.
#include "problem.h"

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include "kernels.h"
#include "products_amx.h"

const streamseg::KernelTable<float>* streamseg::avx512amx_kernels() {
  return kernel_table<Avx512Lanes, AmxProducts<AmxTiles>>("avx512amx");
}
#else
const streamseg::KernelTable<float>* streamseg::avx512amx_kernels() { return nullptr; }
#endif
