// Bilinear upsampling and argmax, rows of one image.
#pragma once

#include "problem.h"

namespace streamseg {
namespace {

template <class V>
struct LabelKernel {
  using R = typename V::R;
  static constexpr int W = V::kLanes;

  template <bool Permute>
  static R sample(const float* row, const ArgmaxProblem& p, int64_t x) {
    const R fraction = V::load(p.fraction + x);
    R left;
    R right;
    if constexpr (Permute) {
      const int32_t base = p.left[x];
      const R source = V::load(row + base);
      left = V::permute(source, p.left + x, base);
      right = V::permute(source, p.right + x, base);
    } else {
      left = V::gather(row, p.left + x);
      right = V::gather(row, p.right + x);
    }
    return V::fma(fraction, V::sub(right, left), left);
  }

  template <bool Permute>
  static void label_block(const float* blended, int64_t stride, const ArgmaxProblem& p, int64_t x,
                          uint8_t* out) {
    R best = sample<Permute>(blended, p, x);
    R label = V::set(0);
    for (int64_t k = 1; k < p.classes; ++k) {
      V::keep_larger(sample<Permute>(blended + k * stride, p, x), V::set(static_cast<float>(k)),
                     best, label);
    }
    float lane[W];
    V::store(lane, label);
    const int64_t left = p.out_width - x;
    for (int64_t i = 0; i < W && i < left; ++i) out[x + i] = static_cast<uint8_t>(lane[i]);
  }

  static void run(const ArgmaxProblem& p, const Item& item, Scratch& scratch) {
    // The source row of every class, blended to the height of one output row; W more as padding.
    const int64_t stride = p.width + W;
    float* blended =
        static_cast<float*>(scratch.reserve(static_cast<size_t>(p.classes * stride) * 4));
    const int64_t plane = p.height * p.width;
    const float* logits = p.logits + item.batch * p.classes * plane;
    for (int64_t y = item.begin; y < item.end; ++y) {
      double source = (static_cast<double>(y) + 0.5) * static_cast<double>(p.height) /
                          static_cast<double>(p.out_height) - 0.5;
      source = source < 0 ? 0 : source;
      int64_t top = static_cast<int64_t>(source);
      top = top > p.height - 1 ? p.height - 1 : top;
      const int64_t bottom = top + 1 < p.height ? top + 1 : top;
      const R weight = V::set(static_cast<float>(source - static_cast<double>(top)));
      for (int64_t k = 0; k < p.classes; ++k) {
        const float* upper = logits + k * plane + top * p.width;
        const float* lower = logits + k * plane + bottom * p.width;
        float* out = blended + k * stride;
        for (int64_t x = 0; x < p.width; x += W) {
          const int64_t left = p.width - x;
          const int part = static_cast<int>(left < W ? left : W);
          const R a = part < W ? V::load_part(upper + x, part) : V::load(upper + x);
          const R b = part < W ? V::load_part(lower + x, part) : V::load(lower + x);
          V::store(out + x, V::fma(weight, V::sub(b, a), a));
        }
      }
      uint8_t* out = p.labels + (item.batch * p.out_height + y) * p.out_width;
      for (int64_t x = 0; x < p.out_width; x += W) {
        if constexpr (V::kPermutes) {
          if (p.right[x + W - 1] - p.left[x] < W) {
            label_block<true>(blended, stride, p, x, out);
            continue;
          }
        }
        label_block<false>(blended, stride, p, x, out);
      }
    }
  }
};

}  // namespace
}  // namespace streamseg
