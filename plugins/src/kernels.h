// The kernels of one instruction set, compiled over its lane type (lanes_*.h).
#pragma once

#include "conv_backward.h"
#include "conv_kernel.h"
#include "label_kernel.h"
#include "scan_backward.h"
#include "scan_kernel.h"

namespace streamseg {
namespace {

template <class V>
const KernelTable<typename V::T>* kernel_table(const char* name) {
  static const KernelTable<typename V::T> table = {name,
                                                   V::kLanes,
                                                   ConvKernel<V>::run,
                                                   ConvBackward<V>::run,
                                                   ScanKernel<V>::pack_decay,
                                                   ScanKernel<V>::run,
                                                   ScanBackward<V>::run,
                                                   label_kernel<V>()};
  return &table;
}

}  // namespace
}  // namespace streamseg
