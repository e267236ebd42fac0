// Kernels in plain C++: for every machine, and in double precision for checking gradients.
#include "kernels.h"
#include "lanes_scalar.h"
#include "problem.h"

namespace streamseg {

const KernelTable<float>& scalar_kernels() {
  using K = Kernels<ScalarLanes<float>>;
  static const KernelTable<float> table = {
      "scalar", 1, K::conv, K::conv_backward, K::pack_decay, K::scan, K::scan_backward,
      ArgmaxKernel<ScalarLanes<float>>::run, K::exp, measure_floor<ScalarLanes<float>>};
  return table;
}

const KernelTable<double>& scalar_kernels_f64() {
  using K = Kernels<ScalarLanes<double>>;
  static const KernelTable<double> table = {
      "scalar", 1, K::conv, K::conv_backward, K::pack_decay, K::scan, K::scan_backward,
      nullptr, K::exp, nullptr};
  return table;
}

}  // namespace streamseg
