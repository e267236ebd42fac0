// Attention of a block of queries over all keys, a block of keys after the other: scores never exist
// for more than one block of each (FlashAttention, arXiv 2205.14135, alg. 1).
#pragma once

#include "attention.h"
#include "products.h"

namespace streamseg {
namespace {

template <class V, class P>
struct AttentionKernel : Blocks<V> {
  using R = typename V::R;
  using T = float;
  static constexpr int W = V::kLanes;
  using Blocks<V>::load;
  using Blocks<V>::store;

  static int64_t round16(int64_t count) { return (count + 15) / 16 * 16; }

  // Keys or values of one block and head, as the weight of a product.
  struct Operand {
    int64_t depth;
    int64_t columns;
    Precision precision;

    size_t panel_bytes() const {
      return (P::packed_bytes(depth, columns, precision) + 63) / 64 * 64;
    }
    size_t bytes() const { return panel_bytes() + 2 * Arrays<float>::bytes(P::padded(columns)); }
    float* scale(char* at) const { return reinterpret_cast<float*>(at + panel_bytes()); }
    int32_t* sums(char* at) const {
      return reinterpret_cast<int32_t*>(at + panel_bytes() +
                                        Arrays<float>::bytes(P::padded(columns)));
    }
    Packed open(char* at) const { return {depth, columns, at, scale(at), sums(at), precision}; }
  };

  static Operand keys(const AttentionProblem& p, int64_t count) {
    return {p.depth, count, p.precision};
  }
  static Operand values(const AttentionProblem& p, int64_t count) {
    return {count, p.depth, p.precision};
  }

  static size_t block_bytes(const AttentionProblem& p) {
    return keys(p, p.largest_block()).bytes() + values(p, p.largest_block()).bytes();
  }

  static size_t packed_bytes(const AttentionProblem& p) {
    return static_cast<size_t>(p.batch * p.heads * p.blocks()) * block_bytes(p);
  }

  static char* place(const AttentionProblem& p, int64_t batch, int64_t head, int64_t block) {
    return p.packed + static_cast<size_t>((batch * p.heads + head) * p.blocks() + block) * block_bytes(p);
  }

  // Keys [begin, end), which are one block, of head `cell`.
  static void pack(const AttentionProblem& p, const Item& item, Scratch& scratch) {
    const int64_t count = item.end - item.begin;
    const int64_t from = (item.batch * p.keys + item.begin) * p.features() + item.cell * p.depth;
    char* at = place(p, item.batch, item.cell, item.begin / kKeyBlock);
    auto* dense = static_cast<float*>(scratch.reserve(Arrays<float>::bytes(count * p.depth)));
    for (int64_t i = 0; i < count; ++i) {
      const float* row = p.k + from + i * p.features();
      for (int64_t d = 0; d < p.depth; ++d) dense[d * count + i] = row[d];
    }
    const Operand k = keys(p, count);
    P::pack(dense, k.depth, k.columns, k.precision, at, k.scale(at), k.sums(at));
    for (int64_t i = 0; i < count; ++i) {
      const float* row = p.v + from + i * p.features();
      for (int64_t d = 0; d < p.depth; ++d) dense[i * p.depth + d] = row[d];
    }
    at += keys(p, p.largest_block()).bytes();
    const Operand v = values(p, count);
    P::pack_shared(dense, v.depth, v.columns, v.precision, at, v.scale(at), v.sums(at));
  }

  struct Buffers {
    float* rows;    // [queries], rounded queries
    float* scale;   // [queries]
    float* scores;  // [queries, stride]
    float* shares;  // [queries], rounded shares
    float* top;     // [queries], largest score so far
    float* sum;     // [queries], sum of the shares so far
    float* keep;    // [queries], weight of the result so far
    float* weight;  // [queries], of this block's part of the result
    float* part;    // [queries, depth]
    int64_t row_words;
    int64_t stride;
  };

  static Buffers open(const AttentionProblem& p, Scratch& scratch) {
    const int64_t n = kQueryBlock;
    const int64_t words = P::row_words(p.depth, p.precision);
    const int64_t share_words = P::row_words(p.largest_block(), p.precision);
    const int64_t stride = round16(p.largest_block());
    const int64_t sizes[] = {n * words, n, n * stride, n * share_words, n, n, n, n, n * p.depth};
    size_t bytes = 0;
    for (const int64_t size : sizes) bytes += Arrays<float>::bytes(size);
    Arrays<float> arrays(scratch.reserve(bytes));
    Buffers b;
    float** const fields[] = {&b.rows, &b.scale, &b.scores, &b.shares,
                              &b.top,  &b.sum,   &b.keep,   &b.weight, &b.part};
    for (int i = 0; i < 9; ++i) *fields[i] = arrays.take(sizes[i]);
    b.row_words = words;
    b.stride = stride;
    return b;
  }

  // The largest of `count` numbers, a multiple of 16; NaN if one of the first `real` is not finite.
  static float largest(const float* x, int64_t count) {
    R top = V::set(kLowest);
    R poison = V::set(0);
    for (int64_t i = 0; i < count; i += W) {
      const R value = V::load(x + i);
      top = V::max(top, value);
      poison = V::fma(value, V::set(0), poison);
    }
    alignas(64) float lanes[W];
    V::store(lanes, top);
    for (int half = W / 2; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) lanes[j] = lanes[j] > lanes[j + half] ? lanes[j] : lanes[j + half];
    }
    return lanes[0] + V::sum(poison);
  }

  // y = keep y + part, one head's columns of one query.
  static void blend(float* y, float keep, const float* part, int64_t depth) {
    for (int64_t d = 0; d < depth; d += W) {
      const int64_t left = depth - d;
      store(y + d, V::fma(load(y + d, left), V::set(keep), load(part + d, left)), left);
    }
  }

  // Shares of one query in one block, and the weights of these and of the result so far.
  static void share(const AttentionProblem& p, Buffers& b, int64_t t, int64_t count, bool first) {
    float* scores = b.scores + t * b.stride;
    for (int64_t i = count; i < round16(count); ++i) scores[i] = kLowest;
    const float here = largest(scores, round16(count));
    const float top = !first && b.top[t] > here ? b.top[t] : here;
    float* row = b.shares + t * P::row_words(count, p.precision);
    const float part = P::shares(scores, count, top, p.precision, row);
    float before = 0;
    if (!first) {
      alignas(64) float fade[W];
      V::store(fade, V::exp2(V::max(V::set(kFaintest), V::set(b.top[t] - top))));
      before = b.sum[t] * fade[0];
    }
    b.top[t] = top;
    b.sum[t] = before + part;
    b.weight[t] = 1.0f / b.sum[t];
    b.keep[t] = before * b.weight[t];
  }

  // Queries [begin, end) of head `cell`.
  static void run(const AttentionProblem& p, const Item& item, Scratch& scratch) {
    Buffers b = open(p, scratch);
    const int64_t n = item.end - item.begin;
    const int64_t at = (item.batch * p.queries + item.begin) * p.features() + item.cell * p.depth;
    const auto unit = static_cast<float>(kLog2E / __builtin_sqrt(static_cast<double>(p.depth)));
    for (int64_t t = 0; t < n; ++t) {
      const float* row = p.q + at + t * p.features();
      b.scale[t] = unit * P::convert(row, p.depth, p.precision, b.rows + t * b.row_words);
    }
    for (int64_t block = 0; block < p.blocks(); ++block) {
      const int64_t left = p.keys - block * kKeyBlock;
      const int64_t count = left < kKeyBlock ? left : kKeyBlock;
      char* packed = place(p, item.batch, item.cell, block);
      P::multiply(b.rows, b.scale, n, keys(p, count).open(packed), b.scores, b.stride);
      const bool first = block == 0;
      for (int64_t t = 0; t < n; ++t) share(p, b, t, count, first);
      const Packed v = values(p, count).open(packed + keys(p, p.largest_block()).bytes());
      P::multiply(b.shares, b.weight, n, v, first ? p.y + at : b.part, first ? p.features() : p.depth);
      for (int64_t t = 0; !first && t < n; ++t) {
        blend(p.y + at + t * p.features(), b.keep[t], b.part + t * p.depth, p.depth);
      }
    }
  }
};

}  // namespace
}  // namespace streamseg
