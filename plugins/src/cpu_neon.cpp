// Kernels for Neon; null where the target architecture has no such instructions.
#include "problem.h"

#if defined(__aarch64__)
#include "kernels.h"
#include "lanes_neon.h"

namespace streamseg {

const KernelTable<float>* neon_kernels() {
  using K = Kernels<NeonLanes>;
  static const KernelTable<float> table = {
      "neon", NeonLanes::kLanes, K::conv, K::conv_backward, K::pack_decay, K::scan,
      K::scan_backward, ArgmaxKernel<NeonLanes>::run, K::exp, measure_floor<NeonLanes>};
  return &table;
}

}  // namespace streamseg
#else
namespace streamseg {

const KernelTable<float>* neon_kernels() { return nullptr; }

}  // namespace streamseg
#endif
