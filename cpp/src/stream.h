// One video through a network: buffers are allocated once, steps allocate nothing.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "fit.h"
#include "network.h"

namespace streamseg::core {

// Memory of a backend, initially zero.
class Buffer {
 public:
  Buffer(Memory& memory, size_t bytes);
  Buffer(Buffer&& other) noexcept
      : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void clear();
  void write(const void* content);
  void read(void* out) const;

 private:
  Memory* memory_;
  void* data_;
  size_t bytes_;
};

class Stream {
 public:
  explicit Stream(std::shared_ptr<const Network> network);

  void step(const streamseg_frame& frame, uint8_t* labels, size_t stride);
  void reset();
  uint64_t steps() const { return step_; }
  size_t snapshot_size() const;
  void snapshot(uint8_t* out) const;
  void restore(const uint8_t* content, size_t size);
  void give(const std::string& name, const void* values, size_t size);
  const std::shared_ptr<const Network>& network() const { return network_; }

 private:
  size_t index_of(const std::string& state) const;
  // Plans recur, so each is created once.
  Step& plan_at(uint64_t step);
  std::unique_ptr<Step> make_plan(uint64_t step);
  Binding bind(const std::string& tensor, const std::string& state, size_t buffer) const;
  void require_given() const;

  std::shared_ptr<const Network> network_;
  std::unique_ptr<Lane> lane_;
  Buffer frame_, labels_;
  std::vector<uint8_t> host_frame_, host_labels_;  // empty if the buffers are on the host
  std::vector<std::vector<Buffer>> state_;         // by row of the state table, then by buffer
  std::vector<std::pair<std::string, std::unique_ptr<Step>>> plans_;
  std::set<std::string> set_;  // given states that have values
  std::optional<Fitter> fitter_;
  uint64_t step_ = 0;
};

}  // namespace streamseg::core
