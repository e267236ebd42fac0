// One video through a network: buffers made once, steps that allocate nothing.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "fit.h"
#include "network.h"

namespace streamseg {

class Stream {
 public:
  explicit Stream(std::shared_ptr<const Network> network);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void step(const streamseg_frame& frame, uint8_t* labels, size_t stride);
  void reset();
  uint64_t steps() const { return step_; }
  size_t snapshot_size() const;
  void snapshot(uint8_t* out) const;
  void restore(const uint8_t* content, size_t size);
  void give(const std::string& name, const void* values, size_t size);
  const std::shared_ptr<const Network>& network() const { return network_; }

 private:
  struct Tensor {
    std::vector<uint8_t> bytes;
    ort::Value* value = nullptr;
  };
  // What one kind of step binds; plans recur, so each is made once.
  struct Plan {
    ort::Session* session;
    std::vector<std::string> names;
    std::vector<const char*> inputs, outputs;
    std::vector<const ort::Value*> values;
    std::vector<ort::Value*> results;
  };

  Tensor make_tensor(const std::vector<int64_t>& shape, int element_type, size_t bytes);
  size_t index_of(const std::string& state) const;
  Plan& plan_at(uint64_t step);
  Plan make_plan(uint64_t step);
  void require_given() const;

  std::shared_ptr<const Network> network_;
  Tensor frame_, labels_;
  std::vector<std::vector<Tensor>> state_;  // by row of the table, then by buffer
  std::vector<std::pair<std::string, Plan>> plans_;
  std::set<std::string> set_;  // given states that have values
  std::optional<Fitter> fitter_;
  uint64_t step_ = 0;
};

}  // namespace streamseg
