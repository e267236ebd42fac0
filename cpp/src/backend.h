// Where a bundle's graphs run and where their buffers lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "content.h"
#include "streamseg/streamseg.h"

namespace streamseg::core {

// Memory that a backend's steps read and write; a device's is not for the host to touch.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual void* allocate(size_t bytes) = 0;  // zero at first
  virtual void release(void* data) noexcept = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  virtual void clear(void* data, size_t bytes) = 0;
  // The host may read and write it in place.
  virtual bool on_host() const { return false; }
};

// A tensor that a step reads or writes.
struct Binding {
  std::string name;
  void* data;
  size_t bytes;
  std::vector<int64_t> shape;
  int element_type;  // ONNX's number
};

// One graph on fixed buffers. After run() the outputs are written.
class Step {
 public:
  virtual ~Step() = default;
  virtual void run() = 0;
};

// What one stream has of its own in a backend.
class Lane {
 public:
  virtual ~Lane() = default;
  virtual std::unique_ptr<Step> make_step(const std::string& graph, const std::vector<Binding>& inputs,
                                          const std::vector<Binding>& outputs) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  // Throws Failure where the graph is refused. `digest` is that of `content`.
  virtual void open_graph(const std::string& name, const Content& content, const std::string& digest) = 0;
  virtual std::unique_ptr<Lane> new_lane() = 0;
  virtual Memory& memory() = 0;
};

// The backend that the options name; throws Failure where it is unknown or missing.
std::unique_ptr<Backend> make_backend(const streamseg_options& options);

std::unique_ptr<Backend> make_onnxruntime(const streamseg_options& options);
std::unique_ptr<Backend> make_onnxruntime_cuda(const streamseg_options& options);
std::unique_ptr<Backend> make_tensorrt(const streamseg_options& options);

}  // namespace streamseg::core
