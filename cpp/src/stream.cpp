#include "stream.h"

#include <algorithm>
#include <cstring>

#include "failure.h"

namespace streamseg::core {
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

Buffer::Buffer(Memory& memory, size_t bytes) : memory_(&memory), data_(memory.allocate(bytes)), bytes_(bytes) {}

Buffer::~Buffer() {
  if (data_ != nullptr) memory_->release(data_);
}

void Buffer::clear() { memory_->clear(data_, bytes_); }

void Buffer::write(const void* content) { memory_->upload(data_, content, bytes_); }

void Buffer::read(void* out) const { memory_->download(out, data_, bytes_); }

Stream::Stream(std::shared_ptr<const Network> network)
    : network_(std::move(network)),
      lane_(network_->backend().new_lane()),
      frame_(network_->backend().memory(), network_->manifest().pixels() * 3),
      labels_(network_->backend().memory(), network_->manifest().pixels()) {
  Memory& memory = network_->backend().memory();
  if (!memory.on_host()) {
    host_frame_.resize(frame_.bytes());
    host_labels_.resize(labels_.bytes());
  }
  for (const auto& spec : network_->manifest().state) {
    auto& buffers = state_.emplace_back();
    for (size_t i = 0; i < spec.buffers(); ++i) buffers.emplace_back(memory, spec.bytes());
    const auto& given = network_->given(spec.name);
    if (given.empty()) continue;
    buffers[0].write(given.data());
    set_.insert(spec.name);
  }
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

Step& Stream::plan_at(uint64_t step) {
  // A step's schedule row, and the step modulo each state's buffer count, determine its buffers.
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
    if (name == key) return *plan;
  }
  return *plans_.emplace_back(key, make_plan(step)).second;
}

Binding Stream::bind(const std::string& tensor, const std::string& state, size_t buffer) const {
  const StateSpec& spec = network_->manifest().state_named(state);
  return {tensor, state_[index_of(state)][buffer].data(), spec.bytes(), spec.shape, spec.element_type};
}

std::unique_ptr<Step> Stream::make_plan(uint64_t step) {
  const Manifest& manifest = network_->manifest();
  const ScheduleRow& row = manifest.row_at(step);
  const GraphSpec& graph = manifest.graphs.at(row.graph);
  std::vector<Binding> inputs, outputs;
  inputs.push_back({"frame", frame_.data(), frame_.bytes(), {1, manifest.height, manifest.width, 3}, kUint8});
  for (const auto& name : graph.reads) {
    const StateSpec& spec = manifest.state_named(name);
    if (spec.kind != Kind::ring) {
      inputs.push_back(bind(name + ".in", name, read_index(spec, step, 1)));
      continue;
    }
    const auto& ages = row.ages.at(name);
    for (size_t i = 0; i < ages.size(); ++i) {
      inputs.push_back(bind(name + "." + std::to_string(i) + ".in", name, read_index(spec, step, ages[i])));
    }
  }
  outputs.push_back({"labels", labels_.data(), labels_.bytes(), {1, manifest.height, manifest.width}, kUint8});
  for (const auto& name : graph.writes) {
    outputs.push_back(bind(name + ".out", name, write_index(manifest.state_named(name), step)));
  }
  return lane_->make_step(row.graph, inputs, outputs);
}

void Stream::step(const streamseg_frame& frame, uint8_t* labels, size_t stride) {
  require_given();
  const Manifest& manifest = network_->manifest();
  if (!fitter_ || !fitter_->fits(frame)) {
    fitter_.emplace(frame, manifest.height, manifest.width, manifest.letterbox, manifest.fill);
  }
  Step& plan = plan_at(step_);
  const bool on_host = host_frame_.empty();
  fitter_->fit(frame, on_host ? static_cast<uint8_t*>(frame_.data()) : host_frame_.data());
  if (!on_host) frame_.write(host_frame_.data());
  plan.run();
  if (!on_host) labels_.read(host_labels_.data());
  ++step_;
  fitter_->restore(on_host ? static_cast<const uint8_t*>(labels_.data()) : host_labels_.data(), labels, stride);
}

void Stream::reset() {
  step_ = 0;
  const auto& table = network_->manifest().state;
  for (size_t i = 0; i < table.size(); ++i) {
    if (table[i].kind == Kind::given) continue;
    for (auto& buffer : state_[i]) buffer.clear();
  }
}

size_t Stream::snapshot_size() const {
  size_t size = kDigest + sizeof(step_);
  for (const auto& buffers : state_) {
    for (const auto& buffer : buffers) size += buffer.bytes();
  }
  return size;
}

void Stream::snapshot(uint8_t* out) const {
  std::memcpy(out, network_->identity().data(), kDigest);
  std::memcpy(out + kDigest, &step_, sizeof(step_));
  out += kDigest + sizeof(step_);
  for (const auto& buffers : state_) {
    for (const auto& buffer : buffers) {
      buffer.read(out);
      out += buffer.bytes();
    }
  }
}

void Stream::restore(const uint8_t* content, size_t size) {
  if (size != snapshot_size() || std::memcmp(content, network_->identity().data(), kDigest) != 0) {
    throw Failure(STREAMSEG_MISMATCH, "the snapshot is of another bundle, or damaged");
  }
  std::memcpy(&step_, content + kDigest, sizeof(step_));
  content += kDigest + sizeof(step_);
  for (auto& buffers : state_) {
    for (auto& buffer : buffers) {
      buffer.write(content);
      content += buffer.bytes();
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
  state_[index][0].write(values);
  set_.insert(name);
}

}  // namespace streamseg::core
