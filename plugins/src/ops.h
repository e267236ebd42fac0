// The only definition of the operators: names, attributes, shapes, roles and limits. Every
// interface (C, ONNX Runtime, TensorRT) checks its arguments against this table. `plugins/table.py`
// mirrors it in Python, and a test compares the two.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "bounds.h"
#include "windows.h"

namespace streamseg {

// Invalid arguments. `what()` has the subject, the actual value and the expected one.
class InvalidArgument : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// A map has the type of the graph's features, a weight and a state are float32, labels are integers,
// and an index is int32 and read only by the lowering.
enum class Role : uint8_t { kMap, kWeight, kState, kLabels, kIndex };

enum class Axis : uint8_t {
  kBatch, kTokens, kCells, kChannels, kTaps, kHistory, kStates, kClasses, kRows, kColumns, kHeight,
  kWidth, kFeatures, kRank, kProjections, kQueries, kKeys, kCount
};

struct Limit {
  Axis axis;
  const char* name;  // in messages
  int64_t low;
  int64_t high;
};

// In the order of Axis. Tokens, cells, history and projections follow from attributes and
// other axes.
inline constexpr Limit kLimits[] = {
    {Axis::kBatch, "batch", 1, 65535},
    {Axis::kTokens, "map_h * map_w", 1, INT32_MAX},
    {Axis::kCells, "cells", 1, INT32_MAX},
    {Axis::kChannels, "channels", 1, kMaxExtent},
    {Axis::kTaps, "taps", 1, kMaxTaps},
    {Axis::kHistory, "taps - 1", 0, kMaxTaps - 1},
    {Axis::kStates, "states", 1, kMaxStates},
    {Axis::kClasses, "classes", 1, 255},
    {Axis::kRows, "scores height", 1, kMaxPixels},
    {Axis::kColumns, "scores width", 1, kMaxPixels},
    {Axis::kHeight, "height", 1, kMaxPixels},
    {Axis::kWidth, "width", 1, kMaxPixels},
    {Axis::kFeatures, "features", 1, kMaxFeatures},
    {Axis::kRank, "rank", 1, kMaxFeatures},
    {Axis::kProjections, "rank + 2 * states", 3, kMaxFeatures + 2 * kMaxStates},
    {Axis::kQueries, "queries", 1, INT32_MAX},
    {Axis::kKeys, "keys", 1, INT32_MAX},
};

struct Operand {
  const char* name;
  Role role;
  int rank;
  Axis axes[4];
};

struct Attribute {
  const char* name;
  int64_t low;
  int64_t high;
  Axis axis;  // the size that it is; kCount for none
};

constexpr size_t kMaxInputs = 14;
constexpr size_t kMaxAttributes = 7;

struct Operator {
  const char* name;
  size_t attribute_count;
  Attribute attributes[kMaxAttributes];
  size_t input_count;  // without the indices
  Operand inputs[kMaxInputs];
  size_t output_count;
  Operand outputs[3];
  size_t index_count;  // trailing inputs of the lowering
  const char* indices[3];

  constexpr bool windowed() const { return attribute_count >= 6; }
};

// Offsets end before their window; `Sizes` checks that.
#define STREAMSEG_GEOMETRY                                                                     \
  {"map_h", 1, kMaxExtent, Axis::kCount}, {"map_w", 1, kMaxExtent, Axis::kCount},              \
      {"window_h", 1, kMaxExtent, Axis::kCount}, {"window_w", 1, kMaxExtent, Axis::kCount},    \
      {"offset_h", 0, kMaxExtent, Axis::kCount}, {"offset_w", 0, kMaxExtent, Axis::kCount}
#define STREAMSEG_PRECISION {"precision", 0, 2, Axis::kCount}

inline constexpr Operator kCausalConv = {
    "WindowedCausalConv",
    6,
    {STREAMSEG_GEOMETRY},
    4,
    {{"x", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kChannels}},
     {"weight", Role::kWeight, 2, {Axis::kChannels, Axis::kTaps}},
     {"bias", Role::kWeight, 1, {Axis::kChannels}},
     {"state", Role::kState, 4, {Axis::kBatch, Axis::kCells, Axis::kChannels, Axis::kHistory}}},
    2,
    {{"y", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kChannels}},
     {"next_state", Role::kState, 4,
      {Axis::kBatch, Axis::kCells, Axis::kChannels, Axis::kHistory}}},
    3,
    {"order", "inverse", "tail"}};

inline constexpr Operator kSelectiveScan = {
    "WindowedSelectiveScan",
    6,
    {STREAMSEG_GEOMETRY},
    9,
    {{"u", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kChannels}},
     {"dt", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kChannels}},
     {"dt_bias", Role::kWeight, 1, {Axis::kChannels}},
     {"A", Role::kWeight, 2, {Axis::kChannels, Axis::kStates}},
     {"B", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kStates}},
     {"C", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kStates}},
     {"skip", Role::kWeight, 1, {Axis::kChannels}},
     {"z", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kChannels}},
     {"state", Role::kState, 4, {Axis::kBatch, Axis::kCells, Axis::kChannels, Axis::kStates}}},
    2,
    {{"y", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kChannels}},
     {"next_state", Role::kState, 4,
      {Axis::kBatch, Axis::kCells, Axis::kChannels, Axis::kStates}}},
    2,
    {"order", "inverse"}};

inline constexpr Operator kUpsampleArgmax = {
    "UpsampleArgmax",
    2,
    {{"height", 1, kMaxPixels, Axis::kHeight}, {"width", 1, kMaxPixels, Axis::kWidth}},
    1,
    {{"scores", Role::kMap, 4, {Axis::kBatch, Axis::kClasses, Axis::kRows, Axis::kColumns}}},
    1,
    {{"labels", Role::kLabels, 3, {Axis::kBatch, Axis::kHeight, Axis::kWidth}}},
    0,
    {}};

// A whole layer: x + out_proj(scan(...)), with RMSNorm (epsilon 1e-5) first. Products are stored
// [inputs, outputs]; `precision` is that of the products: 0 float32, 1 bfloat16, 2 int8 with a scale
// per token (x_proj and dt_proj then in bfloat16).
inline constexpr Operator kMambaLayer = {
    "WindowedMambaLayer",
    7,
    {STREAMSEG_GEOMETRY, STREAMSEG_PRECISION},
    14,
    {{"x", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kFeatures}},
     {"norm", Role::kWeight, 1, {Axis::kFeatures}},
     {"u_proj", Role::kWeight, 2, {Axis::kFeatures, Axis::kChannels}},
     {"z_proj", Role::kWeight, 2, {Axis::kFeatures, Axis::kChannels}},
     {"conv_weight", Role::kWeight, 2, {Axis::kChannels, Axis::kTaps}},
     {"conv_bias", Role::kWeight, 1, {Axis::kChannels}},
     {"dt_proj", Role::kWeight, 2, {Axis::kRank, Axis::kChannels}},
     {"dt_bias", Role::kWeight, 1, {Axis::kChannels}},
     {"A", Role::kWeight, 2, {Axis::kChannels, Axis::kStates}},
     {"x_proj", Role::kWeight, 2, {Axis::kChannels, Axis::kProjections}},
     {"skip", Role::kWeight, 1, {Axis::kChannels}},
     {"out_proj", Role::kWeight, 2, {Axis::kChannels, Axis::kFeatures}},
     {"conv_state", Role::kState, 4,
      {Axis::kBatch, Axis::kCells, Axis::kChannels, Axis::kHistory}},
     {"scan_state", Role::kState, 4,
      {Axis::kBatch, Axis::kCells, Axis::kChannels, Axis::kStates}}},
    3,
    {{"y", Role::kMap, 3, {Axis::kBatch, Axis::kTokens, Axis::kFeatures}},
     {"next_conv_state", Role::kState, 4,
      {Axis::kBatch, Axis::kCells, Axis::kChannels, Axis::kHistory}},
     {"next_scan_state", Role::kState, 4,
      {Axis::kBatch, Axis::kCells, Axis::kChannels, Axis::kStates}}},
    3,
    {"order", "inverse", "tail"}};

// softmax(q k^T / sqrt(depth)) v of every head, depth = features / heads. `precision` is that of both
// products, as above: with int8, queries and keys have a scale per token, values one per channel, and
// the softmax is rounded to 255ths of its largest number.
inline constexpr Operator kAttention = {
    "MultiHeadAttention",
    2,
    {{"heads", 1, kMaxFeatures, Axis::kCount}, STREAMSEG_PRECISION},
    3,
    {{"q", Role::kMap, 3, {Axis::kBatch, Axis::kQueries, Axis::kFeatures}},
     {"k", Role::kMap, 3, {Axis::kBatch, Axis::kKeys, Axis::kFeatures}},
     {"v", Role::kMap, 3, {Axis::kBatch, Axis::kKeys, Axis::kFeatures}}},
    1,
    {{"y", Role::kMap, 3, {Axis::kBatch, Axis::kQueries, Axis::kFeatures}}},
    0,
    {}};

#undef STREAMSEG_GEOMETRY
#undef STREAMSEG_PRECISION

inline constexpr const Operator* kOperators[] = {&kCausalConv, &kSelectiveScan, &kUpsampleArgmax,
                                                &kMambaLayer, &kAttention};

inline void require_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (low <= value && value <= high) return;
  throw InvalidArgument(std::string(name) + " is " + std::to_string(value) + ", expected " +
                        std::to_string(low) + " to " + std::to_string(high));
}

inline void require_limit(Axis axis, int64_t value) {
  const Limit& limit = kLimits[static_cast<size_t>(axis)];
  require_range(limit.name, value, limit.low, limit.high);
}

// The sizes of one call: attributes first, then one operand after the other. A size below 0 is not
// known yet (TensorRT builds with such sizes) and matches any size.
class Sizes {
 public:
  // `attributes` in the order of the table.
  Sizes(const Operator& op, const int64_t* attributes) {
    values_.fill(-1);
    for (size_t i = 0; i < op.attribute_count; ++i) {
      const Attribute& attribute = op.attributes[i];
      const bool offset = i == 4 || i == 5;
      const int64_t high = offset ? attributes[i - 2] - 1 : attribute.high;
      require_range(attribute.name, attributes[i], attribute.low, high);
    }
    if (op.windowed()) {
      grid_ = {bands(attributes[0], attributes[2], attributes[4]),
               bands(attributes[1], attributes[3], attributes[5])};
      bind(Axis::kTokens, grid_.tokens());
      bind(Axis::kCells, grid_.cells());
    }
    for (size_t i = 0; i < op.attribute_count; ++i) {
      if (op.attributes[i].axis != Axis::kCount) bind(op.attributes[i].axis, attributes[i]);
    }
  }

  const WindowGrid& grid() const { return grid_; }

  int64_t operator[](Axis axis) const {
    const auto value = [&](Axis a) { return values_[static_cast<size_t>(a)]; };
    if (axis == Axis::kHistory) return value(Axis::kTaps) < 0 ? -1 : value(Axis::kTaps) - 1;
    if (axis == Axis::kProjections) {
      const bool known = value(Axis::kRank) >= 0 && value(Axis::kStates) >= 0;
      return known ? value(Axis::kRank) + 2 * value(Axis::kStates) : -1;
    }
    return value(axis);
  }

  // Shape of an operand, as far as known.
  std::array<int64_t, 4> shape(const Operand& operand) const {
    std::array<int64_t, 4> sizes{};
    for (int i = 0; i < operand.rank; ++i) sizes[i] = (*this)[operand.axes[i]];
    return sizes;
  }

  void bind(Axis axis, int64_t value) {
    require_limit(axis, value);
    values_[static_cast<size_t>(axis)] = value;
    check_product("map_h * map_w * channels", Axis::kTokens, Axis::kChannels);
    check_product("scores height * width", Axis::kRows, Axis::kColumns);
  }

  // Compares a shape with the table and learns from it.
  template <class Extent>
  void take(const Operand& operand, const Extent* shape, int64_t rank) {
    bool same = rank == operand.rank;
    for (int i = 0; same && i < operand.rank; ++i) {
      const int64_t wanted = (*this)[operand.axes[i]];
      same = shape[i] < 0 || wanted < 0 || shape[i] == wanted;
    }
    if (!same) throw InvalidArgument(describe(operand, shape, rank));
    for (int i = 0; i < operand.rank; ++i) {
      if (shape[i] >= 0 && (*this)[operand.axes[i]] < 0) bind(operand.axes[i], shape[i]);
    }
  }

 private:
  static Bands bands(int64_t extent, int64_t window, int64_t offset) {
    return {static_cast<int32_t>(extent), static_cast<int32_t>(window),
            static_cast<int32_t>(offset)};
  }

  // Kernels index one map with 32 bits.
  void check_product(const char* name, Axis a, Axis b) const {
    if ((*this)[a] > 0 && (*this)[b] > 0) {
      require_range(name, (*this)[a] * (*this)[b], 1, INT32_MAX);
    }
  }

  template <class Extent>
  std::string describe(const Operand& operand, const Extent* got, int64_t rank) const {
    std::string text = std::string(operand.name) + " has shape [";
    for (int64_t i = 0; i < rank; ++i) text += (i > 0 ? ", " : "") + extent(got[i]);
    std::string sizes;
    std::string names;
    for (int i = 0; i < operand.rank; ++i) {
      sizes += (i > 0 ? ", " : "") + extent((*this)[operand.axes[i]]);
      names += (i > 0 ? ", " : "") + std::string(kLimits[static_cast<size_t>(operand.axes[i])].name);
    }
    return text + "], expected [" + sizes + "] (" + names + ")";
  }

  static std::string extent(int64_t size) { return size < 0 ? "?" : std::to_string(size); }

  WindowGrid grid_{};
  std::array<int64_t, static_cast<size_t>(Axis::kCount)> values_{};
};

}  // namespace streamseg
