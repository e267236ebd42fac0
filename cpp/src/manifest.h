// The manifest of a bundle; docs/bundle-format.md describes every field.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace streamseg::core {

enum class Kind { carry, ring, key, given };

struct StateSpec {
  std::string name;
  std::vector<int64_t> shape;
  int element_type;     // number of the ONNX type
  size_t element_size;  // bytes
  std::string init;
  Kind kind;
  int64_t slots;

  size_t bytes() const;
  // A carried state alternates between two buffers, so steps do not copy it.
  size_t buffers() const { return kind == Kind::carry ? 2 : static_cast<size_t>(slots); }
};

struct GraphSpec {
  std::string file;
  std::vector<std::string> reads;
  std::vector<std::string> writes;
  std::vector<std::string> outputs;
  std::map<std::string, int64_t> ring_reads;
};

struct ScheduleRow {
  int64_t from;
  std::string graph;
  int64_t every;
  std::map<std::string, std::vector<int64_t>> ages;
};

struct ClassInfo {
  std::string name;
  uint8_t color[3];
};

struct Manifest {
  int height;
  int width;
  bool letterbox;
  bool float16 = false;  // all products of the layers are in float16
  uint8_t fill[3];  // colour of the letterbox margin: the mean colour
  std::vector<StateSpec> state;
  std::map<std::string, GraphSpec> graphs;
  std::vector<ScheduleRow> schedule;
  std::vector<ClassInfo> classes;
  std::map<std::string, std::string> files;

  size_t pixels() const { return static_cast<size_t>(height) * static_cast<size_t>(width); }
  const StateSpec& state_named(const std::string& name) const;
  // The last row that covers a step; there is always one.
  const ScheduleRow& row_at(uint64_t step) const;
};

// Throws Failure (STREAMSEG_INVALID_BUNDLE) for text that is not a manifest of format 1.
Manifest parse_manifest(const std::string& text);

}  // namespace streamseg::core
