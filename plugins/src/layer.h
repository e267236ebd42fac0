// The fused layer: its weights as given and as packed, and the arguments of one call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "windows.h"

namespace streamseg {

// Of the five matrix products; everything else is float32. int16 is for the small products of int8
// layers where `KernelTable::small` says so.
enum class Precision : int32_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2, kInt16 = 3 };

constexpr float kNormEpsilon = 1e-5f;
constexpr int64_t kLayerChunk = 80;  // tokens that a layer multiplies together

struct LayerSizes {
  int64_t features;
  int64_t channels;
  int64_t taps;
  int64_t states;
  int64_t rank;
  int64_t projections() const { return rank + 2 * states; }
};

// Weights of one layer; products are stored [inputs, outputs].
struct LayerWeights {
  const float* norm;         // [features]
  const float* u_proj;       // [features, channels]
  const float* z_proj;       // [features, channels]
  const float* conv_weight;  // [channels, taps]
  const float* conv_bias;    // [channels]
  const float* dt_proj;      // [rank, channels]
  const float* dt_bias;      // [channels]
  const float* A;            // [channels, states]
  const float* x_proj;       // [channels, rank + 2 states]
  const float* skip;         // [channels]
  const float* out_proj;     // [channels, features]
};

// One weight of a product in the layout of an instruction set.
struct Packed {
  int64_t depth;
  int64_t columns;
  const void* panels;
  const float* scale;    // of the columns
  const int32_t* sums;   // of the columns' integers; null if the layout needs none
  Precision precision;
};

struct PackedLayer {
  LayerSizes sizes;
  LayerWeights weights;  // those that are read unpacked, conv_weight as [taps, channels]; products are null
  Packed u_proj, z_proj, x_proj, dt_proj, out_proj;
  const float* decay;  // A log2(e), packed
};

struct LayerProblem {
  WindowGrid grid;
  int64_t batch;
  const PackedLayer* layer;
  const float* x;  // [batch, tokens, features]
  const float* conv_state;
  const float* scan_state;
  float* y;
  float* next_conv_state;
  float* next_scan_state;
};

}  // namespace streamseg
