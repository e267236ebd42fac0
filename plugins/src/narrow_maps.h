// Maps of 16-bit floating-point numbers for kernels that read and write float32: copies, converted
// by all threads of the runtime.
#pragma once

#include <algorithm>
#include <vector>

#include "half.h"
#include "operators.h"

namespace streamseg {

enum class MapType { kFloat32, kFloat16, kBfloat16 };

// convert(begin, end) on pieces of [0, count), in parallel.
template <class Convert>
void in_pieces(int64_t count, const Executor& executor, const Convert& convert) {
  constexpr int64_t kPiece = 1 << 15;
  struct Work {
    int64_t count;
    const Convert* convert;
    static void run(void* context, size_t index) {
      const auto& work = *static_cast<const Work*>(context);
      const int64_t begin = static_cast<int64_t>(index) * kPiece;
      (*work.convert)(begin, std::min(begin + kPiece, work.count));
    }
  } work{count, &convert};
  if (count > 0) executor.run((count + kPiece - 1) / kPiece, Work::run, &work);
}

// Inputs as float32; copies live as long as this.
class InputMaps {
 public:
  const float* read(const void* data, int64_t count, MapType type, const Executor& executor) {
    if (type == MapType::kFloat32) return static_cast<const float*>(data);
    const auto* narrow = static_cast<const uint16_t*>(data);
    copies_.emplace_back(static_cast<size_t>(count));
    float* wide = copies_.back().data();
    in_pieces(count, executor, [=](int64_t begin, int64_t end) {
      if (type == MapType::kFloat16) {
        for (int64_t i = begin; i < end; ++i) wide[i] = widen_half(narrow[i]);
      } else {
        for (int64_t i = begin; i < end; ++i) wide[i] = widen_bfloat16(narrow[i]);
      }
    });
    return wide;
  }

 private:
  std::vector<std::vector<float>> copies_;
};

// An output, written as float32 and narrowed by `finish`.
class OutputMap {
 public:
  OutputMap(void* data, int64_t count, MapType type) : data_(data), type_(type) {
    if (type != MapType::kFloat32) copy_.resize(static_cast<size_t>(count));
  }

  float* floats() { return copy_.empty() ? static_cast<float*>(data_) : copy_.data(); }

  void finish(const Executor& executor) {
    const float* wide = copy_.data();
    auto* narrow = static_cast<uint16_t*>(data_);
    const bool half = type_ == MapType::kFloat16;
    in_pieces(static_cast<int64_t>(copy_.size()), executor, [=](int64_t begin, int64_t end) {
      if (half) {
        for (int64_t i = begin; i < end; ++i) narrow[i] = narrow_to_half(wide[i]);
      } else {
        for (int64_t i = begin; i < end; ++i) narrow[i] = narrow_to_bfloat16(wide[i]);
      }
    });
  }

 private:
  void* data_;
  MapType type_;
  std::vector<float> copy_;
};

}  // namespace streamseg
