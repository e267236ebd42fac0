// TensorRT engines. The library is loaded at run time; its headers are needed to compile this file.
#include <NvInferRuntime.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>

#include "cuda.h"
#include "engine.h"
#include "failure.h"
#include "sha256.h"

namespace streamseg::core {
namespace {

[[noreturn]] void fail(const std::string& text) { throw Failure(STREAMSEG_BACKEND_FAILED, text); }

class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> guard(mutex_);
    reason_ = text;
  }
  std::string reason() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return reason_.empty() ? "it gives no reason" : reason_;
  }

 private:
  mutable std::mutex mutex_;
  std::string reason_;
};

int element_type_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT: return 1;
    case nvinfer1::DataType::kUINT8: return 2;
    case nvinfer1::DataType::kINT32: return 6;
    case nvinfer1::DataType::kINT64: return 7;
    case nvinfer1::DataType::kHALF: return 10;
    default: return 0;
  }
}

size_t element_size_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kUINT8: return 1;
    case nvinfer1::DataType::kHALF: return 2;
    case nvinfer1::DataType::kINT64: return 8;
    default: return 4;
  }
}

std::string hash_of(const char* path) {
  if (path == nullptr) return "";
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(std::string("plugin library ") + path + " cannot be read");
  const std::vector<uint8_t> content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return digest(content.data(), content.size()).substr(7);  // without "sha256:"
}

// Device memory, released with its owner.
class Scratch {
 public:
  Scratch(CudaMemory& memory, size_t bytes) : memory_(memory), data_(memory.allocate(bytes == 0 ? 1 : bytes)) {}
  ~Scratch() { memory_.release(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  CudaMemory& memory_;
  void* data_;
};

// The engines of a bundle, and the resources that their streams share.
struct Shared {
  explicit Shared(const streamseg_options& options)
      : library(options.tensorrt == nullptr ? "libnvinfer.so.10" : options.tensorrt, "TensorRT",
                RTLD_NOW | RTLD_GLOBAL),  // plugin libraries need its symbols
        plugins(options.operators == nullptr ? "" : options.operators),
        engines(require_folder(options), target(options)) {
    auto* make = library.find<void*(void*, int32_t)>("createInferRuntime_INTERNAL");
    runtime.reset(static_cast<nvinfer1::IRuntime*>(make(&log, NV_TENSORRT_VERSION)));
    if (!runtime) fail("TensorRT does not start: " + log.reason());
  }

  static std::string require_folder(const streamseg_options& options) {
    if (options.engines == nullptr) {
      throw Failure(STREAMSEG_INVALID_ARGUMENT, "backend 'tensorrt' needs the folder of the bundle's engines");
    }
    return options.engines;
  }

  EngineTarget target(const streamseg_options& options) const {
    const int32_t version = library.find<int32_t()>("getInferLibVersion")();
    const int32_t build = library.find<int32_t()>("getInferLibBuildVersion")();
    const std::string text = std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
                             std::to_string(version % 100) + "." + std::to_string(build);
    if (version < 100000) fail("TensorRT is " + text + ", expected 10.0 or newer");
    return {text, memory.name(), memory.capability(), memory.driver(), hash_of(options.operators)};
  }

  void load_plugins() {
    if (loaded) return;
    auto* registry = library.find<nvinfer1::IPluginRegistry*()>("getPluginRegistry")();
    if (registry->getCreator("WindowedSelectiveScan", "1", "streamseg") == nullptr &&
        registry->loadLibrary(plugins.c_str()) == nullptr) {
      fail("TensorRT does not load plugin library " + plugins);
    }
    loaded = true;
  }

  SharedLibrary library;
  CudaMemory memory;
  Log log;
  std::string plugins;
  EngineFolder engines;
  bool loaded = false;
  std::unique_ptr<nvinfer1::IRuntime> runtime;
  std::map<std::string, std::unique_ptr<nvinfer1::ICudaEngine>> opened;
};

void check_tensor(const nvinfer1::ICudaEngine& engine, const Binding& binding, nvinfer1::TensorIOMode mode) {
  const char* name = binding.name.c_str();
  const auto shape = engine.getTensorShape(name);
  bool same = engine.getTensorIOMode(name) == mode && element_type_of(engine.getTensorDataType(name)) == binding.element_type &&
              shape.nbDims == static_cast<int32_t>(binding.shape.size());
  for (int32_t i = 0; same && i < shape.nbDims; ++i) same = shape.d[i] == binding.shape[static_cast<size_t>(i)];
  if (!same) {
    throw Failure(STREAMSEG_MISMATCH, "the engine and the manifest disagree about '" + binding.name +
                                          "'. Run: streamseg build BUNDLE --out FOLDER");
  }
}

// Execution contexts of one stream. They run one at a time, so they can share memory.
class TensorRtLane : public Lane {
 public:
  explicit TensorRtLane(Shared& shared)
      : shared_(shared),
        stream_(shared.memory.new_stream(), [&shared](void* stream) { shared.memory.release_stream(stream); }) {
    int64_t most = 0;
    for (const auto& [name, engine] : shared.opened) most = std::max(most, int64_t{engine->getDeviceMemorySizeV2()});
    working_ = std::make_unique<Scratch>(shared.memory, static_cast<size_t>(most));
    for (const auto& [name, engine] : shared.opened) {
      auto* context = engine->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
      contexts_[name].reset(context);
      if (context == nullptr) fail("TensorRT makes no execution context of graph '" + name + "': " + shared.log.reason());
      context->setDeviceMemoryV2(working_->data(), most);
    }
  }

  std::unique_ptr<Step> make_step(const std::string& graph, const std::vector<Binding>& inputs,
                                  const std::vector<Binding>& outputs) override;
  void run(const std::string& graph, const std::vector<std::pair<std::string, void*>>& addresses) {
    auto& context = *contexts_.at(graph);
    shared_.memory.enter();
    for (const auto& [name, data] : addresses) {
      if (!context.setTensorAddress(name.c_str(), data)) refuse(graph);
    }
    if (!context.enqueueV3(static_cast<cudaStream_t>(stream_.get()))) refuse(graph);
    shared_.memory.synchronize(stream_.get());
  }

 private:
  [[noreturn]] void refuse(const std::string& graph) const {
    fail("TensorRT does not run graph '" + graph + "': " + shared_.log.reason());
  }

  Shared& shared_;
  std::shared_ptr<void> stream_;
  std::unique_ptr<Scratch> working_;
  std::map<std::string, std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;
  std::map<std::string, std::unique_ptr<Scratch>> unread_;  // outputs that are not requested
};

class TensorRtStep : public Step {
 public:
  TensorRtStep(TensorRtLane& lane, std::string graph, std::vector<std::pair<std::string, void*>> addresses)
      : lane_(lane), graph_(std::move(graph)), addresses_(std::move(addresses)) {}
  void run() override { lane_.run(graph_, addresses_); }

 private:
  TensorRtLane& lane_;
  std::string graph_;
  std::vector<std::pair<std::string, void*>> addresses_;
};

std::unique_ptr<Step> TensorRtLane::make_step(const std::string& graph, const std::vector<Binding>& inputs,
                                              const std::vector<Binding>& outputs) {
  const auto& engine = *shared_.opened.at(graph);
  std::map<std::string, void*> addresses;
  for (const auto& binding : inputs) {
    check_tensor(engine, binding, nvinfer1::TensorIOMode::kINPUT);
    addresses[binding.name] = binding.data;
  }
  for (const auto& binding : outputs) {
    check_tensor(engine, binding, nvinfer1::TensorIOMode::kOUTPUT);
    addresses[binding.name] = binding.data;
  }
  for (int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* name = engine.getIOTensorName(i);
    if (addresses.count(name) != 0) continue;
    if (engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT) {
      throw Failure(STREAMSEG_MISMATCH, "the engine of graph '" + graph + "' reads '" + name + "', the manifest's does not");
    }
    const auto shape = engine.getTensorShape(name);
    size_t bytes = element_size_of(engine.getTensorDataType(name));
    for (int32_t d = 0; d < shape.nbDims; ++d) bytes *= static_cast<size_t>(shape.d[d]);
    auto& scratch = unread_[graph + "/" + name];
    if (!scratch) scratch = std::make_unique<Scratch>(shared_.memory, bytes);
    addresses[name] = scratch->data();
  }
  return std::make_unique<TensorRtStep>(*this, graph,
                                        std::vector<std::pair<std::string, void*>>(addresses.begin(), addresses.end()));
}

class TensorRt : public Backend {
 public:
  explicit TensorRt(const streamseg_options& options) : shared_(options) {}
  void open_graph(const std::string& name, const Content&, const std::string& digest) override {
    const auto content = shared_.engines.read(name, digest);
    if (shared_.engines.needs_plugins()) shared_.load_plugins();
    shared_.memory.enter();
    auto* engine = shared_.runtime->deserializeCudaEngine(content.data(), content.size());
    if (engine == nullptr) fail("TensorRT refuses the engine of graph '" + name + "': " + shared_.log.reason());
    shared_.opened[name].reset(engine);
  }
  std::unique_ptr<Lane> new_lane() override { return std::make_unique<TensorRtLane>(shared_); }
  Memory& memory() override { return shared_.memory; }

 private:
  Shared shared_;
};

}  // namespace

std::unique_ptr<Backend> make_tensorrt(const streamseg_options& options) { return std::make_unique<TensorRt>(options); }

}  // namespace streamseg::core
