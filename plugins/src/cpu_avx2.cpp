// Kernels for Avx2; null where the target architecture has no such instructions.
#include "problem.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "kernels.h"
#include "lanes_avx2.h"

namespace streamseg {

const KernelTable<float>* avx2_kernels() {
  using K = Kernels<Avx2Lanes>;
  static const KernelTable<float> table = {
      "avx2", Avx2Lanes::kLanes, K::conv, K::conv_backward, K::pack_decay, K::scan,
      K::scan_backward, ArgmaxKernel<Avx2Lanes>::run, K::exp, measure_floor<Avx2Lanes>};
  return &table;
}

}  // namespace streamseg
#else
namespace streamseg {

const KernelTable<float>* avx2_kernels() { return nullptr; }

}  // namespace streamseg
#endif
