// Checked sizes of an operator in the form that the C interface takes.
#pragma once

#include "cuda_api.h"
#include "ops.h"

namespace streamseg {

// `depth` is the operator's own axis: taps or states.
inline streamseg_cuda_sizes cuda_sizes(const Sizes& s, Axis depth) {
  const WindowGrid& g = s.grid();
  return {g.rows.extent,   g.cols.extent,   g.rows.window,     g.cols.window, g.rows.offset,
          g.cols.offset,   s[Axis::kBatch], s[Axis::kChannels], s[depth]};
}

}  // namespace streamseg
