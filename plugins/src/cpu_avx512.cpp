// Kernels for Avx512; null where the target architecture has no such instructions.
#include "problem.h"

#if defined(__AVX512F__)
#include "kernels.h"
#include "lanes_avx512.h"

namespace streamseg {

const KernelTable<float>* avx512_kernels() {
  using K = Kernels<Avx512Lanes>;
  static const KernelTable<float> table = {
      "avx512", Avx512Lanes::kLanes, K::conv, K::conv_backward, K::pack_decay, K::scan,
      K::scan_backward, ArgmaxKernel<Avx512Lanes>::run, K::exp, measure_floor<Avx512Lanes>};
  return &table;
}

}  // namespace streamseg
#else
namespace streamseg {

const KernelTable<float>* avx512_kernels() { return nullptr; }

}  // namespace streamseg
#endif
