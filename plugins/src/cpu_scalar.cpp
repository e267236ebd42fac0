// Kernels in plain C++, for all machines, and in double precision to check gradients.
#include "kernels.h"
#include "lanes_scalar.h"

const streamseg::KernelTable<float>* streamseg::scalar_kernels() {
  return kernel_table<ScalarLanes<float>>("scalar");
}

const streamseg::KernelTable<double>* streamseg::scalar_kernels_f64() {
  return wide_kernel_table<ScalarLanes<double>>("scalar");
}
