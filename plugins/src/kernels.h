// The kernels of one instruction set, compiled over its lane type (lanes_*.h).
#pragma once

#include "attention_kernel.h"
#include "conv_backward.h"
#include "conv_kernel.h"
#include "label_kernel.h"
#include "layer_kernel.h"
#include "scan_backward.h"
#include "scan_kernel.h"

namespace streamseg {
namespace {

// P: the matrix products of fused operators.
template <class V, class P = Products<V>>
const KernelTable<float>* kernel_table(const char* name) {
  static const KernelTable<float> table = {name,
                                           V::kLanes,
                                           ConvKernel<V>::run,
                                           ConvBackward<V>::run,
                                           ScanKernel<V>::pack_decay,
                                           ScanKernel<V>::run,
                                           ScanBackward<V>::run,
                                           LabelKernel<V>::run,
                                           LayerKernel<V, P>::run,
                                           P::packed_bytes,
                                           P::padded,
                                           P::pack,
                                           AttentionKernel<V, P>::packed_bytes,
                                           AttentionKernel<V, P>::pack,
                                           AttentionKernel<V, P>::run,
                                           P::row_words,
                                           P::convert,
                                           P::multiply,
                                           P::kSmall};
  return &table;
}

// To check gradients only: no labels and no fused operators.
template <class V>
const KernelTable<double>* wide_kernel_table(const char* name) {
  static const KernelTable<double> table = {name,
                                            V::kLanes,
                                            ConvKernel<V>::run,
                                            ConvBackward<V>::run,
                                            ScanKernel<V>::pack_decay,
                                            ScanKernel<V>::run,
                                            ScanBackward<V>::run,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            nullptr,
                                            Precision::kFloat32};
  return &table;
}

}  // namespace
}  // namespace streamseg
