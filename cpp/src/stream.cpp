#include "stream.h"

#include <algorithm>
#include <cstring>

#include "failure.h"

namespace streamseg {
namespace {

constexpr int kUint8 = 2;
constexpr size_t kDigest = 71;  // "sha256:" and 64 hex digits

size_t write_index(const StateSpec& spec, uint64_t step) {
  if (spec.kind == Kind::carry) return (step + 1) % 2;
  return step % static_cast<uint64_t>(spec.slots);
}

size_t read_index(const StateSpec& spec, uint64_t step, int64_t age) {
  if (spec.kind == Kind::carry) return step % 2;
  if (spec.kind != Kind::ring) return 0;
  return (step - static_cast<uint64_t>(age)) % static_cast<uint64_t>(spec.slots);
}

}  // namespace

Stream::Stream(std::shared_ptr<const Network> network) : network_(std::move(network)) {
  const Manifest& manifest = network_->manifest();
  const auto pixels = static_cast<size_t>(manifest.height) * static_cast<size_t>(manifest.width);
  frame_ = make_tensor({1, manifest.height, manifest.width, 3}, kUint8, pixels * 3);
  labels_ = make_tensor({1, manifest.height, manifest.width}, kUint8, pixels);
  for (const auto& spec : manifest.state) {
    state_.emplace_back();
    for (size_t i = 0; i < spec.buffers(); ++i) {
      state_.back().push_back(make_tensor(spec.shape, spec.element_type, spec.bytes()));
    }
    const auto& given = network_->given(spec.name);
    if (given.empty()) continue;
    std::copy(given.begin(), given.end(), state_.back()[0].bytes.begin());
    set_.insert(spec.name);
  }
}

Stream::~Stream() {
  for (auto& buffers : state_) {
    for (auto& tensor : buffers) network_->runtime().release(tensor.value);
  }
  if (frame_.value != nullptr) network_->runtime().release(frame_.value);
  if (labels_.value != nullptr) network_->runtime().release(labels_.value);
}

Stream::Tensor Stream::make_tensor(const std::vector<int64_t>& shape, int element_type, size_t bytes) {
  Tensor tensor;
  tensor.bytes.resize(bytes);
  tensor.value = network_->runtime().wrap(tensor.bytes.data(), bytes, shape, element_type);
  return tensor;
}

size_t Stream::index_of(const std::string& state) const {
  const auto& table = network_->manifest().state;
  const auto found = std::find_if(table.begin(), table.end(), [&](const auto& spec) { return spec.name == state; });
  if (found == table.end()) throw Failure(STREAMSEG_MISMATCH, "the bundle has no state '" + state + "'");
  return static_cast<size_t>(found - table.begin());
}

void Stream::require_given() const {
  for (const auto& spec : network_->manifest().state) {
    if (spec.init == "unset" && set_.count(spec.name) == 0) {
      throw Failure(STREAMSEG_MISMATCH, "state '" + spec.name + "' is not set; call streamseg_give first");
    }
  }
}

Stream::Plan& Stream::plan_at(uint64_t step) {
  // The buffers of a step follow from its row and from the step modulo each state's buffers.
  const Manifest& manifest = network_->manifest();
  const ScheduleRow& row = manifest.row_at(step);
  thread_local std::string key;
  key.clear();
  key += std::to_string(&row - manifest.schedule.data());
  for (const auto& spec : manifest.state) {
    key += ' ';
    key += static_cast<char>('0' + step % std::max<uint64_t>(spec.buffers(), 1));
  }
  for (auto& [name, plan] : plans_) {
    if (name == key) return plan;
  }
  plans_.emplace_back(key, make_plan(step));
  auto& plan = plans_.back().second;
  for (const auto& name : plan.names) {
    auto& list = plan.inputs.size() < plan.values.size() ? plan.inputs : plan.outputs;
    list.push_back(name.c_str());
  }
  return plan;
}

Stream::Plan Stream::make_plan(uint64_t step) {
  const Manifest& manifest = network_->manifest();
  const ScheduleRow& row = manifest.row_at(step);
  const GraphSpec& graph = manifest.graphs.at(row.graph);
  Plan plan;
  plan.session = network_->session(row.graph);
  plan.names.push_back("frame");
  plan.values.push_back(frame_.value);
  for (const auto& name : graph.reads) {
    const StateSpec& spec = manifest.state_named(name);
    const auto& buffers = state_[index_of(name)];
    if (spec.kind != Kind::ring) {
      plan.names.push_back(name + ".in");
      plan.values.push_back(buffers[read_index(spec, step, 1)].value);
      continue;
    }
    const auto& ages = row.ages.at(name);
    for (size_t i = 0; i < ages.size(); ++i) {
      plan.names.push_back(name + "." + std::to_string(i) + ".in");
      plan.values.push_back(buffers[read_index(spec, step, ages[i])].value);
    }
  }
  plan.names.push_back("labels");
  plan.results.push_back(labels_.value);
  for (const auto& name : graph.writes) {
    plan.names.push_back(name + ".out");
    plan.results.push_back(state_[index_of(name)][write_index(manifest.state_named(name), step)].value);
  }
  return plan;
}

void Stream::step(const streamseg_frame& frame, uint8_t* labels, size_t stride) {
  require_given();
  const Manifest& manifest = network_->manifest();
  if (!fitter_ || !fitter_->fits(frame)) {
    fitter_.emplace(frame, manifest.height, manifest.width, manifest.letterbox, manifest.fill);
  }
  fitter_->fit(frame, frame_.bytes.data());
  Plan& plan = plan_at(step_);
  network_->runtime().run(plan.session, plan.inputs, plan.values, plan.outputs, plan.results);
  ++step_;
  fitter_->restore(labels_.bytes.data(), labels, stride);
}

void Stream::reset() {
  step_ = 0;
  const auto& table = network_->manifest().state;
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i].kind == Kind::given) continue;
    for (auto& tensor : state_[i]) std::fill(tensor.bytes.begin(), tensor.bytes.end(), uint8_t{0});
  }
}

size_t Stream::snapshot_size() const {
  size_t size = kDigest + sizeof(step_);
  for (const auto& buffers : state_) {
    for (const auto& tensor : buffers) size += tensor.bytes.size();
  }
  return size;
}

void Stream::snapshot(uint8_t* out) const {
  std::memcpy(out, network_->identity().data(), kDigest);
  std::memcpy(out + kDigest, &step_, sizeof(step_));
  out += kDigest + sizeof(step_);
  for (const auto& buffers : state_) {
    for (const auto& tensor : buffers) out = std::copy(tensor.bytes.begin(), tensor.bytes.end(), out);
  }
}

void Stream::restore(const uint8_t* content, size_t size) {
  if (size != snapshot_size() || std::memcmp(content, network_->identity().data(), kDigest) != 0) {
    throw Failure(STREAMSEG_MISMATCH, "the snapshot is of another bundle, or damaged");
  }
  std::memcpy(&step_, content + kDigest, sizeof(step_));
  content += kDigest + sizeof(step_);
  for (auto& buffers : state_) {
    for (auto& tensor : buffers) {
      std::copy(content, content + tensor.bytes.size(), tensor.bytes.begin());
      content += tensor.bytes.size();
    }
  }
}

void Stream::give(const std::string& name, const void* values, size_t size) {
  const size_t index = index_of(name);
  const auto& spec = network_->manifest().state[index];
  if (spec.kind != Kind::given || size != spec.bytes()) {
    throw Failure(STREAMSEG_MISMATCH, "state '" + name + "' is given " + std::to_string(size) + " bytes, expected a " +
                                          "given state of " + std::to_string(spec.bytes()));
  }
  std::memcpy(state_[index][0].bytes.data(), values, size);
  set_.insert(name);
}

}  // namespace streamseg
