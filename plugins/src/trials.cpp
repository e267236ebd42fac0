#include "trials.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

namespace streamseg {
namespace {

struct Shape {
  int64_t rows;
  int64_t depth;
  int64_t columns;
};

// Numbers between -1 and 1, always the same.
std::vector<float> generate(int64_t count, uint32_t seed) {
  std::vector<float> numbers(static_cast<size_t>(count));
  for (auto& number : numbers) {
    seed = seed * 1664525u + 1013904223u;
    number = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
  }
  return numbers;
}

std::vector<float> absolute(std::vector<float> numbers) {
  for (auto& number : numbers) number = std::fabs(number);
  return numbers;
}

// One product, packed and converted.
class Trial {
 public:
  Trial(const KernelTable<float>& table, const Shape& shape, Precision precision,
        const std::vector<float>& a, const std::vector<float>& b)
      : table_(table), shape_(shape), precision_(precision), words_(table.row_words(shape.depth, precision)),
        panels_(table.packed_bytes(shape.depth, shape.columns, precision) / 4),
        scale_(static_cast<size_t>(table.padded_columns(shape.columns))), sums_(scale_.size()),
        rows_(static_cast<size_t>(shape.rows * words_)), row_scale_(static_cast<size_t>(shape.rows)),
        c_(static_cast<size_t>(shape.rows * shape.columns)) {
    table.pack_product(b.data(), shape.depth, shape.columns, precision, panels_.data(), scale_.data(),
                       sums_.data());
    for (int64_t i = 0; i < shape.rows; ++i) {
      row_scale_[static_cast<size_t>(i)] = table.convert_row(a.data() + i * shape.depth, shape.depth,
                                                             precision, rows_.data() + i * words_);
    }
  }

  const std::vector<float>& multiply() {
    const Packed weight{shape_.depth, shape_.columns, panels_.data(), scale_.data(), sums_.data(), precision_};
    table_.multiply(rows_.data(), row_scale_.data(), shape_.rows, weight, c_.data(), shape_.columns);
    return c_;
  }

  // The least of several attempts.
  std::chrono::nanoseconds time() {
    auto least = std::chrono::nanoseconds::max();
    for (int attempt = 0; attempt < 8; ++attempt) {
      const auto start = std::chrono::steady_clock::now();
      multiply();
      least = std::min<std::chrono::nanoseconds>(least, std::chrono::steady_clock::now() - start);
    }
    return least;
  }

 private:
  const KernelTable<float>& table_;
  Shape shape_;
  Precision precision_;
  int64_t words_;
  std::vector<float> panels_;
  std::vector<float> scale_;
  std::vector<int32_t> sums_;
  std::vector<float> rows_;
  std::vector<float> row_scale_;
  std::vector<float> c_;
};

// Every sum of `depth` products rounds at most depth + 2 times, by the size of its terms in float32;
// both sides do.
std::vector<float> limits(const KernelTable<float>& trusted, const Shape& s, Precision precision,
                          const std::vector<float>& a, const std::vector<float>& b) {
  if (precision == Precision::kInt8) return std::vector<float>(static_cast<size_t>(s.rows * s.columns));
  auto sizes = Trial(trusted, s, precision, absolute(a), absolute(b)).multiply();
  for (auto& size : sizes) size *= 2.0f * static_cast<float>(s.depth + 2) * 0x1p-24f;
  return sizes;
}

std::string difference(const KernelTable<float>& table, const KernelTable<float>& trusted,
                       const Shape& s, Precision precision) {
  const auto a = generate(s.rows * s.depth, 1);
  const auto b = generate(s.depth * s.columns, 2);
  const auto got = Trial(table, s, precision, a, b).multiply();
  const auto wanted = Trial(trusted, s, precision, a, b).multiply();
  const auto limit = limits(trusted, s, precision, a, b);
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::fabs(got[i] - wanted[i]) <= limit[i]) continue;
    return std::string(precision == Precision::kInt8 ? "int8" : "bfloat16") + " product of " +
           std::to_string(s.rows) + "x" + std::to_string(s.depth) + "x" + std::to_string(s.columns) +
           " is " + std::to_string(got[i]) + " in place " + std::to_string(i) + ", expected " +
           std::to_string(wanted[i]) + " as with " + trusted.name;
  }
  return "";
}

}  // namespace

std::string find_difference(const KernelTable<float>& table, const KernelTable<float>& trusted) {
  // Whole and partial tiles of rows, depths and columns.
  for (const Shape& shape : {Shape{37, 150, 41}, Shape{1, 3, 1}, Shape{16, 64, 16}, Shape{50, 65, 33}}) {
    for (const Precision precision : {Precision::kInt8, Precision::kBfloat16}) {
      const std::string found = difference(table, trusted, shape, precision);
      if (!found.empty()) return found;
    }
  }
  return "";
}

bool is_faster(const KernelTable<float>& table, const KernelTable<float>& other) {
  const Shape s{80, 256, 64};
  const auto a = generate(s.rows * s.depth, 1);
  const auto b = generate(s.depth * s.columns, 2);
  for (const Precision precision : {Precision::kInt8, Precision::kBfloat16}) {
    Trial ours(table, s, precision, a, b);
    Trial theirs(other, s, precision, a, b);
    theirs.multiply();  // wakes the wide units
    if (ours.time() >= theirs.time()) return false;
  }
  return true;
}

}  // namespace streamseg
