// Where the graphs of a bundle run, and where their buffers are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "content.h"
#include "manifest.h"
#include "streamseg/streamseg.h"

namespace streamseg::core {

// Memory that a backend's steps read and write. The host must not access a device's memory.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual void* allocate(size_t bytes) = 0;  // initially zero
  virtual void release(void* data) noexcept = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  virtual void clear(void* data, size_t bytes) = 0;
  // Whether the host may read and write it in place.
  virtual bool on_host() const { return false; }
};

// A tensor that a step reads or writes.
struct Binding {
  std::string name;
  void* data;
  size_t bytes;
  std::vector<int64_t> shape;
  int element_type;  // number of the ONNX type
};

// One graph on fixed buffers. After run() the outputs are written.
class Step {
 public:
  virtual ~Step() = default;
  virtual void run() = 0;
};

// The part of a backend that belongs to one stream.
class Lane {
 public:
  virtual ~Lane() = default;
  virtual std::unique_ptr<Step> make_step(const std::string& graph, const std::vector<Binding>& inputs,
                                          const std::vector<Binding>& outputs) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  // Throws Failure if the graph is rejected. `digest` is that of `content`.
  virtual void open_graph(const std::string& name, const Content& content, const std::string& digest) = 0;
  virtual std::unique_ptr<Lane> new_lane() = 0;
  virtual Memory& memory() = 0;
};

// The backend named in the options; throws Failure if it is unknown or missing.
std::unique_ptr<Backend> make_backend(const streamseg_options& options, const Manifest& manifest);

std::unique_ptr<Backend> make_onnxruntime(const streamseg_options& options);
std::unique_ptr<Backend> make_onnxruntime_cuda(const streamseg_options& options, const Manifest& manifest);
std::unique_ptr<Backend> make_tensorrt(const streamseg_options& options);

}  // namespace streamseg::core
