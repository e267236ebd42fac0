#include "manifest.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "failure.h"

namespace streamseg::core {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxExtent = 1 << 16;
constexpr int64_t kMaxElements = int64_t{1} << 31;
constexpr int64_t kMaxSlots = 64;
constexpr int64_t kMaxStep = int64_t{1} << 31;

[[noreturn]] void fail(const std::string& place, const Json& value, const std::string& expected) {
  std::string shown = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
  fail_bundle("manifest.json: '" + place + "' is " + shown + ", expected " + expected);
}

const Json& get(const Json& object, const std::string& name, const std::string& where) {
  if (!object.is_object()) fail(where, object, "an object");
  const auto found = object.find(name);
  if (found == object.end()) fail_bundle("manifest.json has no '" + where + name + "'");
  return *found;
}

int64_t whole(const Json& value, int64_t low, int64_t high, const std::string& place) {
  const bool number = value.is_number_integer();
  if (!number || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) ||
      value.get<int64_t>() < low || value.get<int64_t>() > high) {
    fail(place, value, "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return value.get<int64_t>();
}

std::string text(const Json& value, const std::string& place) {
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) fail(place, value, "a text");
  return value.get<std::string>();
}

std::string inner_path(const Json& value, const std::string& place) {
  const std::string path = text(value, place);
  bool plain = path.find('\\') == std::string::npos && path.find('\0') == std::string::npos;
  size_t begin = 0;
  while (begin <= path.size()) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    plain = plain && !part.empty() && part != "." && part != "..";
    begin = end + 1;
  }
  if (!plain) fail(place, value, "a plain relative path inside the bundle");
  return path;
}

const Json& array(const Json& value, const std::string& place) {
  if (!value.is_array()) fail(place, value, "an array");
  return value;
}

std::vector<std::string> names(const Json& value, const std::string& place) {
  std::vector<std::string> found;
  for (const auto& entry : array(value, place)) found.push_back(text(entry, place));
  if (std::set<std::string>(found.begin(), found.end()).size() != found.size()) {
    fail(place, value, "names that differ");
  }
  return found;
}

void read_frame(const Json& frame, Manifest& manifest) {
  const auto& shape = array(get(frame, "shape", "frame."), "frame.shape");
  if (shape.size() != 4 || shape[0] != 1 || shape[3] != 3) {
    fail("frame.shape", shape, "[1, height, width, 3]");
  }
  manifest.height = static_cast<int>(whole(shape[1], 1, kMaxExtent, "frame.shape"));
  manifest.width = static_cast<int>(whole(shape[2], 1, kMaxExtent, "frame.shape"));
  if (get(frame, "dtype", "frame.") != "uint8") fail("frame.dtype", frame["dtype"], "uint8");
  if (get(frame, "color", "frame.") != "rgb") fail("frame.color", frame["color"], "rgb");
  const std::string resize = text(get(frame, "resize", "frame."), "frame.resize");
  if (resize != "stretch" && resize != "letterbox") {
    fail("frame.resize", frame["resize"], "stretch or letterbox");
  }
  manifest.letterbox = resize == "letterbox";
  const auto& mean = array(get(frame, "mean", "frame."), "frame.mean");
  if (mean.size() != 3) fail("frame.mean", mean, "an array of 3");
  for (size_t i = 0; i < 3; ++i) {
    if (!mean[i].is_number()) fail("frame.mean", mean, "numbers");
    const double value = mean[i].get<double>();
    if (!(value >= 0 && value <= 255)) fail("frame.mean", mean, "numbers from 0 to 255");
    manifest.fill[i] = static_cast<uint8_t>(std::nearbyint(value));
  }
}

StateSpec read_state(const Json& entry, const std::string& where) {
  static const std::map<std::string, std::pair<int, size_t>> types = {
      {"float32", {1, 4}}, {"uint8", {2, 1}}, {"int32", {6, 4}}, {"int64", {7, 8}}, {"float16", {10, 2}}};
  static const std::map<std::string, Kind> kinds = {
      {"carry", Kind::carry}, {"ring", Kind::ring}, {"key", Kind::key}, {"given", Kind::given}};
  StateSpec spec;
  spec.name = text(get(entry, "name", where), where + "name");
  int64_t elements = 1;
  for (const auto& extent : array(get(entry, "shape", where), where + "shape")) {
    spec.shape.push_back(whole(extent, 1, kMaxElements, where + "shape"));
    if (spec.shape.back() > kMaxElements / elements) fail(where + "shape", entry["shape"], "fewer elements");
    elements *= spec.shape.back();
  }
  if (spec.shape.empty() || spec.shape.size() > 8) fail(where + "shape", entry["shape"], "1 to 8 extents");
  const auto type = types.find(text(get(entry, "dtype", where), where + "dtype"));
  if (type == types.end()) fail(where + "dtype", entry["dtype"], "a type of the format");
  spec.element_type = type->second.first;
  spec.element_size = type->second.second;
  const auto kind = kinds.find(text(get(entry, "kind", where), where + "kind"));
  if (kind == kinds.end()) fail(where + "kind", entry["kind"], "carry, ring, key or given");
  spec.kind = kind->second;
  spec.slots = entry.contains("slots") ? whole(entry["slots"], 1, kMaxSlots, where + "slots") : 1;
  if (spec.kind != Kind::ring && spec.slots != 1) fail(where + "slots", entry["slots"], "1");
  spec.init = text(get(entry, "init", where), where + "init");
  const bool file = spec.init.rfind("file:", 0) == 0;
  if (file) inner_path(spec.init.substr(5), where + "init");
  const bool fits = spec.kind == Kind::given ? file || spec.init == "unset" : spec.init == "zeros";
  if (!fits) fail(where + "init", entry["init"], "what its kind allows");
  return spec;
}

GraphSpec read_graph(const Json& entry, const std::string& where) {
  GraphSpec graph;
  graph.file = inner_path(get(entry, "file", where), where + "file");
  graph.reads = names(get(entry, "reads", where), where + "reads");
  graph.writes = names(get(entry, "writes", where), where + "writes");
  graph.outputs = names(get(entry, "outputs", where), where + "outputs");
  if (entry.contains("ring_reads")) {
    if (!entry["ring_reads"].is_object()) fail(where + "ring_reads", entry["ring_reads"], "an object");
    for (const auto& [name, count] : entry["ring_reads"].items()) {
      graph.ring_reads[name] = whole(count, 1, kMaxSlots, where + "ring_reads." + name);
    }
  }
  return graph;
}

ScheduleRow read_row(const Json& entry, const std::string& where) {
  ScheduleRow row;
  row.from = whole(get(entry, "from", where), 0, kMaxStep, where + "from");
  row.graph = text(get(entry, "graph", where), where + "graph");
  row.every = entry.contains("every") ? whole(entry["every"], 1, kMaxStep, where + "every") : 1;
  if (entry.contains("ages")) {
    if (!entry["ages"].is_object()) fail(where + "ages", entry["ages"], "an object");
    for (const auto& [name, ages] : entry["ages"].items()) {
      for (const auto& age : array(ages, where + "ages." + name)) {
        row.ages[name].push_back(whole(age, 1, kMaxSlots, where + "ages." + name));
      }
    }
  }
  return row;
}

ClassInfo read_class(const Json& entry, size_t index) {
  const std::string where = "classes[" + std::to_string(index) + "].";
  if (whole(get(entry, "id", where), 0, 254, where + "id") != static_cast<int64_t>(index)) {
    fail_bundle("manifest.json: 'classes' must list the ids 0, 1, 2, ... in order");
  }
  ClassInfo info;
  info.name = text(get(entry, "name", where), where + "name");
  const auto& color = array(get(entry, "color", where), where + "color");
  if (color.size() != 3) fail(where + "color", color, "an array of 3");
  for (size_t i = 0; i < 3; ++i) {
    info.color[i] = static_cast<uint8_t>(whole(color[i], 0, 255, where + "color"));
  }
  return info;
}

bool has(const std::vector<std::string>& list, const std::string& name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

void check_graph(const std::string& name, const GraphSpec& graph, const Manifest& manifest) {
  const std::string subject = "manifest.json: graph '" + name + "' ";
  for (const auto* list : {&graph.reads, &graph.writes}) {
    for (const auto& state : *list) manifest.state_named(state);
  }
  if (manifest.files.count(graph.file) == 0) fail_bundle(subject + "has no SHA-256 for " + graph.file);
  if (!has(graph.outputs, "labels")) fail_bundle(subject + "does not put out labels");
  std::set<std::string> rings, stated;
  for (const auto& state : graph.reads) {
    if (manifest.state_named(state).kind == Kind::ring) rings.insert(state);
  }
  for (const auto& entry : graph.ring_reads) stated.insert(entry.first);
  if (rings != stated) fail_bundle(subject + "must give 'ring_reads' for its rings only");
  for (const auto& spec : manifest.state) {
    const bool reads = has(graph.reads, spec.name), writes = has(graph.writes, spec.name);
    const bool always = spec.kind == Kind::carry || spec.kind == Kind::ring;
    if (spec.kind == Kind::given && writes) fail_bundle(subject + "writes '" + spec.name + "', which is given");
    if (always && !writes) fail_bundle(subject + "does not write '" + spec.name + "'");
    if (spec.kind == Kind::carry && !reads) fail_bundle(subject + "does not read '" + spec.name + "'");
    if (spec.kind == Kind::key && reads && writes) fail_bundle(subject + "reads and writes '" + spec.name + "'");
  }
}

void check_row(const ScheduleRow& row, const Manifest& manifest) {
  const auto graph = manifest.graphs.find(row.graph);
  if (graph == manifest.graphs.end()) {
    fail_bundle("manifest.json: the schedule names graph '" + row.graph + "', which does not exist");
  }
  const std::string subject = "manifest.json: the schedule row from " + std::to_string(row.from) + " ";
  if (row.ages.size() != graph->second.ring_reads.size()) fail_bundle(subject + "must give the ages of its rings");
  for (const auto& [name, ages] : row.ages) {
    const auto reads = graph->second.ring_reads.find(name);
    if (reads == graph->second.ring_reads.end()) fail_bundle(subject + "gives ages of '" + name + "'");
    const int64_t limit = manifest.state_named(name).slots - (has(graph->second.writes, name) ? 1 : 0);
    const int64_t oldest = ages.empty() ? 0 : *std::max_element(ages.begin(), ages.end());
    if (static_cast<int64_t>(ages.size()) != reads->second || oldest > limit || oldest > row.from) {
      fail_bundle(subject + "reads '" + name + "' at ages that do not fit");
    }
  }
}

void check(const Manifest& manifest) {
  std::set<std::string> seen;
  for (const auto& spec : manifest.state) {
    if (!seen.insert(spec.name).second) fail_bundle("manifest.json: 'state' names a tensor twice");
    const bool file = spec.init.rfind("file:", 0) == 0;
    if (file && manifest.files.count(spec.init.substr(5)) == 0) {
      fail_bundle("manifest.json: state '" + spec.name + "' has no SHA-256 for its file");
    }
  }
  if (manifest.graphs.empty()) fail_bundle("manifest.json: 'graphs' is empty");
  if (manifest.classes.empty()) fail_bundle("manifest.json: 'classes' is empty");
  for (const auto& [name, graph] : manifest.graphs) check_graph(name, graph, manifest);
  bool whole = false;
  for (const auto& row : manifest.schedule) {
    check_row(row, manifest);
    whole = whole || (row.from == 0 && row.every == 1);
  }
  if (!whole) fail_bundle("manifest.json: 'schedule' leaves steps without a graph");
}

// Fused operators have a precision of their own, beside layers in float32 or INT8.
bool is_float16(const Json& root) {
  const auto precision = root.find("precision");
  if (precision == root.end() || !precision->is_object()) return false;
  if (precision->contains("temporal") || precision->contains("attention")) return false;
  const auto layers = precision->find("layers");
  return layers != precision->end() && *layers == "float16";
}

}  // namespace

size_t StateSpec::bytes() const {
  return static_cast<size_t>(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>())) *
         element_size;
}

const StateSpec& Manifest::state_named(const std::string& name) const {
  for (const auto& spec : state) {
    if (spec.name == name) return spec;
  }
  fail_bundle("manifest.json: state '" + name + "' is in no row of the table");
}

const ScheduleRow& Manifest::row_at(uint64_t step) const {
  const auto at = static_cast<int64_t>(step);
  for (auto row = schedule.rbegin(); row != schedule.rend(); ++row) {
    if (at >= row->from && (at - row->from) % row->every == 0) return *row;
  }
  fail_bundle("manifest.json: 'schedule' leaves a step without a graph");
}

Manifest parse_manifest(const std::string& content) {
  const Json root = Json::parse(content, nullptr, false);
  if (root.is_discarded()) fail_bundle("manifest.json is not valid JSON");
  const int64_t format = whole(get(root, "format", ""), 0, kMaxStep, "format");
  if (format != 1) {
    fail_bundle("the bundle has format " + std::to_string(format) + ", this library reads format 1; use a newer one");
  }
  Manifest manifest;
  read_frame(get(root, "frame", ""), manifest);
  for (const auto& entry : array(get(root, "state", ""), "state")) {
    manifest.state.push_back(read_state(entry, "state[" + std::to_string(manifest.state.size()) + "]."));
  }
  manifest.float16 = is_float16(root);
  const auto& graphs = get(root, "graphs", "");
  if (!graphs.is_object()) fail("graphs", graphs, "an object");
  for (const auto& [name, entry] : graphs.items()) {
    manifest.graphs[name] = read_graph(entry, "graphs." + name + ".");
  }
  for (const auto& entry : array(get(root, "schedule", ""), "schedule")) {
    manifest.schedule.push_back(read_row(entry, "schedule[" + std::to_string(manifest.schedule.size()) + "]."));
  }
  for (const auto& entry : array(get(root, "classes", ""), "classes")) {
    manifest.classes.push_back(read_class(entry, manifest.classes.size()));
  }
  const auto& files = get(root, "files", "");
  if (!files.is_object()) fail("files", files, "an object");
  for (const auto& [name, hash] : files.items()) {
    manifest.files[inner_path(name, "files")] = text(hash, "files." + name);
  }
  check(manifest);
  return manifest;
}

}  // namespace streamseg::core
