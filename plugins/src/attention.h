// The arguments of one call of attention.
#pragma once

#include <cstdint>

#include "layer.h"

namespace streamseg {

constexpr int64_t kKeyBlock = 512;    // sums of 255 x 127 over its keys are exact in float32
constexpr int64_t kQueryBlock = 120;  // of one piece of work

// Maps are [batch, tokens, heads * depth].
struct AttentionProblem {
  int64_t batch;
  int64_t heads;
  int64_t queries;
  int64_t keys;
  int64_t depth;  // of one head
  Precision precision;
  const float* q;
  const float* k;
  const float* v;
  float* y;
  char* packed;  // keys and values by `pack_attention`

  int64_t features() const { return heads * depth; }
  int64_t blocks() const { return (keys + kKeyBlock - 1) / kKeyBlock; }
  int64_t largest_block() const { return keys < kKeyBlock ? keys : kKeyBlock; }
};

}  // namespace streamseg
