#include "onnxruntime.h"

#include <cstdio>

namespace streamseg::core::ort {

using Entry = void (*)();

struct Api {
  Entry entries[275];
  template <size_t Place, class Function>
  Function* get() const {
    return reinterpret_cast<Function*>(entries[Place]);
  }
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*version)();
};

namespace {

constexpr uint32_t kApiVersion = 17;
constexpr int kWarning = 2;  // log level
constexpr int kDeviceAllocator = 0, kArena = 1, kDefaultMemory = 0;

const char* path_of(const streamseg_options& options) {
  return options.onnxruntime == nullptr ? "libonnxruntime.so.1" : options.onnxruntime;
}

}  // namespace

Library::Library(const streamseg_options& options, bool cuda, bool float32)
    : library_(path_of(options), std::string("ONNX Runtime (") + path_of(options) + ")") {
  const std::string& subject = library_.subject();
  base_ = library_.find<const ApiBase*()>("OrtGetApiBase")();
  api_ = base_->get_api(kApiVersion);
  if (api_ == nullptr) {
    throw Failure(STREAMSEG_BACKEND_FAILED, subject + " is version " + base_->version() + ", expected 1.17 or newer");
  }
  check(api_->get<3, Status*(int, const char*, Env**)>()(kWarning, "streamseg", &env_), subject);
  check(api_->get<10, Status*(SessionOptions**)>()(&options_), subject);
  if (options.threads > 0) {
    check(api_->get<24, Status*(SessionOptions*, int)>()(options_, options.threads), "threads");
  }
  if (options.operators != nullptr) register_operators(options.operators);
  if (cuda) {
    add_cuda(float32);
  } else {
    check(api_->get<69, Status*(int, int, MemoryInfo**)>()(kArena, kDefaultMemory, &memory_), subject);
  }
}

Library::~Library() {
  for (const auto& [name, session] : sessions_) api_->get<95, void(Session*)>()(session);
  if (memory_ != nullptr) api_->get<94, void(MemoryInfo*)>()(memory_);
  if (options_ != nullptr) api_->get<100, void(SessionOptions*)>()(options_);
  if (env_ != nullptr) api_->get<92, void(Env*)>()(env_);
}

void Library::register_operators(const char* path) {
  const SharedLibrary operators(path, std::string("the operator library (") + path + ")");
  auto* call = operators.find<Status*(SessionOptions*, const ApiBase*)>("RegisterCustomOps");
  check(call(options_, base_), operators.subject());
  // The graph's lowerings (its functions) are not needed, and the search for functions to inline
  // takes time.
  check(api_->get<130, Status*(SessionOptions*, const char*, const char*)>()(
            options_, "session.disable_aot_function_inlining", "1"),
        "options of ONNX Runtime");
}

bool Library::at_least(int minor) const {
  int major = 0, found = 0;
  return std::sscanf(base_->version(), "%d.%d", &major, &found) == 2 && (major > 1 || found >= minor);
}

// Keep float32: without use_tf32=0 ONNX Runtime rounds products to TF32. Elsewhere the option must not
// be set: ONNX Runtime then takes tensor cores from convolutions of every type.
void Library::add_cuda(bool float32) {
  CudaOptions* cuda = nullptr;
  check(api_->get<205, Status*(CudaOptions**)>()(&cuda), "ONNX Runtime's CUDA provider");
  const std::unique_ptr<CudaOptions, void (*)(CudaOptions*)> owner(cuda, api_->get<208, void(CudaOptions*)>());
  const char* keys[] = {"device_id", "use_tf32"};
  const char* values[] = {"0", "0"};
  const size_t count = float32 && at_least(18) ? 2 : 1;
  check(api_->get<206, Status*(CudaOptions*, const char* const*, const char* const*, size_t)>()(cuda, keys, values, count),
        "options of ONNX Runtime's CUDA provider");
  check(api_->get<204, Status*(SessionOptions*, const CudaOptions*)>()(options_, cuda), "ONNX Runtime's CUDA provider");
  check(api_->get<68, Status*(const char*, int, int, int, MemoryInfo**)>()("Cuda", kDeviceAllocator, 0, kDefaultMemory,
                                                                          &memory_),
        "memory of the CUDA device");
}

void Library::check(Status* status, const std::string& subject) const {
  if (status == nullptr) return;
  const std::string reason = api_->get<2, const char*(const Status*)>()(status);
  api_->get<93, void(Status*)>()(status);
  throw Failure(STREAMSEG_BACKEND_FAILED, subject + ": " + reason);
}

void Library::open_graph(const std::string& name, const Content& content) {
  Session* session = nullptr;
  check(api_->get<8, Status*(const Env*, const void*, size_t, const SessionOptions*, Session**)>()(
            env_, content.data(), content.size(), options_, &session),
        "ONNX Runtime refuses graph '" + name + "'");
  sessions_[name] = session;
}

Value* Library::wrap(const Binding& binding) const {
  Value* value = nullptr;
  check(api_->get<49, Status*(const MemoryInfo*, void*, size_t, const int64_t*, size_t, int, Value**)>()(
            memory_, binding.data, binding.bytes, binding.shape.data(), binding.shape.size(), binding.element_type,
            &value),
        "tensor '" + binding.name + "'");
  return value;
}

void Library::release(Value* value) const { api_->get<96, void(Value*)>()(value); }

void Library::run(Session* session, const std::vector<const char*>& inputs, const std::vector<const Value*>& values,
                  const std::vector<const char*>& outputs, std::vector<Value*>& results) const {
  check(api_->get<9, Status*(Session*, const void*, const char* const*, const Value* const*, size_t,
                             const char* const*, size_t, Value**)>()(
            session, nullptr, inputs.data(), values.data(), inputs.size(), outputs.data(),
            outputs.size(), results.data()),
        "a step");
}

IoBinding* Library::make_binding(Session* session) const {
  IoBinding* binding = nullptr;
  check(api_->get<134, Status*(Session*, IoBinding**)>()(session, &binding), "a binding");
  return binding;
}

void Library::bind_input(IoBinding* binding, const char* name, const Value* value) const {
  check(api_->get<136, Status*(IoBinding*, const char*, const Value*)>()(binding, name, value), name);
}

void Library::bind_output(IoBinding* binding, const char* name, const Value* value) const {
  check(api_->get<137, Status*(IoBinding*, const char*, const Value*)>()(binding, name, value), name);
}

void Library::run(Session* session, const IoBinding* binding) const {
  check(api_->get<133, Status*(Session*, const void*, const IoBinding*)>()(session, nullptr, binding), "a step");
  check(api_->get<203, Status*(const IoBinding*)>()(const_cast<IoBinding*>(binding)), "a step");
}

void Library::release(IoBinding* binding) const { api_->get<135, void(IoBinding*)>()(binding); }

}  // namespace streamseg::core::ort
