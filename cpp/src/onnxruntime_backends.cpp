// Backends that use ONNX Runtime: on the host, and on a CUDA device through I/O bindings.
#include <cstdlib>
#include <cstring>
#include <new>

#include "cuda.h"
#include "onnxruntime.h"

namespace streamseg::core {
namespace {

class HostMemory : public Memory {
 public:
  // For large blocks, calloc returns zero pages that the system allocates when they are first
  // touched, so opening does not wait for them. The block's own address is stored before the
  // aligned one.
  void* allocate(size_t bytes) override {
    void* block = std::calloc(bytes + kAlignment, 1);
    if (block == nullptr) throw std::bad_alloc();
    const auto address = reinterpret_cast<uintptr_t>(block) + sizeof(void*);
    void* data = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
    static_cast<void**>(data)[-1] = block;
    return data;
  }
  void release(void* data) noexcept override { std::free(static_cast<void**>(data)[-1]); }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void clear(void* data, size_t bytes) override { std::memset(data, 0, bytes); }
  bool on_host() const override { return true; }

 private:
  static constexpr size_t kAlignment = 64;
};

// The tensors of a step, wrapped for ONNX Runtime.
class Wrapped {
 public:
  Wrapped(const ort::Library& library, const std::vector<Binding>& bindings) : library_(library) {
    for (const auto& binding : bindings) names_.push_back(binding.name);
    for (const auto& name : names_) pointers.push_back(name.c_str());
    for (const auto& binding : bindings) values.push_back(library.wrap(binding));
  }
  ~Wrapped() {
    for (auto* value : values) library_.release(value);
  }
  Wrapped(const Wrapped&) = delete;
  Wrapped& operator=(const Wrapped&) = delete;
  std::vector<const ort::Value*> constant() const { return {values.begin(), values.end()}; }

  std::vector<const char*> pointers;
  std::vector<ort::Value*> values;

 private:
  const ort::Library& library_;
  std::vector<std::string> names_;
};

class HostStep : public Step {
 public:
  HostStep(const ort::Library& library, ort::Session* session, const std::vector<Binding>& inputs,
           const std::vector<Binding>& outputs)
      : library_(library), session_(session), inputs_(library, inputs), outputs_(library, outputs),
        values_(inputs_.constant()) {}
  void run() override { library_.run(session_, inputs_.pointers, values_, outputs_.pointers, outputs_.values); }

 private:
  const ort::Library& library_;
  ort::Session* session_;
  Wrapped inputs_, outputs_;
  std::vector<const ort::Value*> values_;
};

class CudaStep : public Step {
 public:
  CudaStep(const ort::Library& library, ort::Session* session, const std::vector<Binding>& inputs,
           const std::vector<Binding>& outputs)
      : library_(library), session_(session), inputs_(library, inputs), outputs_(library, outputs),
        binding_(library.make_binding(session), [&library](ort::IoBinding* made) { library.release(made); }) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      library.bind_output(binding_.get(), outputs_.pointers[i], outputs_.values[i]);
    }
  }
  void run() override {
    // What a node on the host reads is copied when it is bound, so inputs are bound for every step.
    for (size_t i = 0; i < inputs_.pointers.size(); ++i) {
      library_.bind_input(binding_.get(), inputs_.pointers[i], inputs_.values[i]);
    }
    library_.run(session_, binding_.get());
  }

 private:
  const ort::Library& library_;
  ort::Session* session_;
  Wrapped inputs_, outputs_;
  std::shared_ptr<ort::IoBinding> binding_;
};

template <class KindOfStep>
class OrtLane : public Lane {
 public:
  explicit OrtLane(const ort::Library& library) : library_(library) {}
  std::unique_ptr<Step> make_step(const std::string& graph, const std::vector<Binding>& inputs,
                                  const std::vector<Binding>& outputs) override {
    return std::make_unique<KindOfStep>(library_, library_.session(graph), inputs, outputs);
  }

 private:
  const ort::Library& library_;
};

template <class KindOfMemory, class KindOfStep, bool kCuda>
class OrtBackend : public Backend {
 public:
  OrtBackend(const streamseg_options& options, bool float32) : library_(options, kCuda, float32) {}
  void open_graph(const std::string& name, const Content& content, const std::string&) override {
    library_.open_graph(name, content);
  }
  std::unique_ptr<Lane> new_lane() override { return std::make_unique<OrtLane<KindOfStep>>(library_); }
  Memory& memory() override { return memory_; }

 private:
  KindOfMemory memory_;
  ort::Library library_;
};

}  // namespace

std::unique_ptr<Backend> make_onnxruntime(const streamseg_options& options) {
  return std::make_unique<OrtBackend<HostMemory, HostStep, false>>(options, true);
}

std::unique_ptr<Backend> make_onnxruntime_cuda(const streamseg_options& options, const Manifest& manifest) {
  // The scan's lowering, which runs without the operators, has a product in float32.
  const bool float32 = !manifest.float16 || options.operators == nullptr;
  return std::make_unique<OrtBackend<CudaMemory, CudaStep, true>>(options, float32);
}

}  // namespace streamseg::core
