#include "probes.h"

#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "ops.h"
#include "probe_level.h"

using namespace streamseg;

#define STREAMSEG_LEVEL(name) Probes name##_probes();
STREAMSEG_LEVELS
#undef STREAMSEG_LEVEL

namespace {

const Probes* find(const char* level) {
#define STREAMSEG_LEVEL(name) name##_probes(),
  static const std::vector<Probes> all = {STREAMSEG_LEVELS};
#undef STREAMSEG_LEVEL
  for (const Probes& probes : all) {
    if (std::strcmp(probes.level, level) == 0) return &probes;
  }
  return nullptr;
}

const char* role_name(Role role) {
  const char* names[] = {"map", "weight", "state", "labels", "index"};
  return names[static_cast<size_t>(role)];
}

const char* axis_name(Axis axis) {
  const char* names[] = {"batch",  "tokens",  "cells", "channels", "taps",   "history",
                         "states", "classes", "rows",  "columns",  "height", "width",
                         "features", "rank", "projections", "queries", "keys"};
  static_assert(sizeof(names) / sizeof(*names) == static_cast<size_t>(Axis::kCount));
  return names[static_cast<size_t>(axis)];
}

std::string line(const char* kind, const Operand& operand) {
  std::string text = std::string(kind) + " " + operand.name + " " + role_name(operand.role);
  for (int i = 0; i < operand.rank; ++i) text += std::string(" ") + axis_name(operand.axes[i]);
  return text + "\n";
}

std::string range(int64_t low, int64_t high) {
  return " " + std::to_string(low) + " " + std::to_string(high) + "\n";
}

std::string describe_table() {
  std::string text;
  for (const Limit& limit : kLimits) {
    text += std::string("limit ") + axis_name(limit.axis) + " (" + limit.name + ")" +
            range(limit.low, limit.high);
  }
  for (const Operator* op : kOperators) {
    text += std::string("operator ") + op->name + "\n";
    for (size_t i = 0; i < op->attribute_count; ++i) {
      const Attribute& attribute = op->attributes[i];
      text += std::string("attribute ") + attribute.name + range(attribute.low, attribute.high);
    }
    for (size_t i = 0; i < op->input_count; ++i) text += line("input", op->inputs[i]);
    for (size_t i = 0; i < op->output_count; ++i) text += line("output", op->outputs[i]);
    for (size_t i = 0; i < op->index_count; ++i) text += std::string("index ") + op->indices[i] + "\n";
  }
  return text;
}

}  // namespace

int probe_exp(const char* level, const float* x, int64_t count, int base2, float* out) {
  const Probes* probes = find(level);
  if (probes == nullptr) return 1;
  probes->exp(x, count, base2 != 0, out);
  return 0;
}

double probe_floor(const char* level, int64_t numbers, int kind) {
  const Probes* probes = find(level);
  if (probes == nullptr) return -1;
  const auto start = std::chrono::steady_clock::now();
  volatile float sink = probes->floor(numbers / probes->lanes, kind);
  (void)sink;
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

const char* probe_operators() {
  static const std::string text = describe_table();
  return text.c_str();
}
