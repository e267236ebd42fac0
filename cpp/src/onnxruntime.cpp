#include "onnxruntime.h"

#include <dlfcn.h>

#include "failure.h"

namespace streamseg::ort {

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
constexpr int kArena = 1, kDefaultMemory = 0;

void* open_library(const char* path, const std::string& subject) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw Failure(STREAMSEG_BACKEND_FAILED, subject + " does not load: " + dlerror());
  }
  return handle;
}

template <class Function>
Function* find(void* handle, const char* name, const std::string& subject) {
  auto* found = reinterpret_cast<Function*>(dlsym(handle, name));
  if (found == nullptr) throw Failure(STREAMSEG_BACKEND_FAILED, subject + " has no " + name);
  return found;
}

}  // namespace

Library::Library(const char* path, const char* operators, int threads) {
  const char* name = path == nullptr ? "libonnxruntime.so.1" : path;
  const std::string subject = std::string("ONNX Runtime (") + name + ")";
  handle_ = open_library(name, subject);
  base_ = find<const ApiBase*()>(handle_, "OrtGetApiBase", subject)();
  api_ = base_->get_api(kApiVersion);
  if (api_ == nullptr) {
    throw Failure(STREAMSEG_BACKEND_FAILED, subject + " is version " + base_->version() + ", expected 1.17 or newer");
  }
  check(api_->get<3, Status*(int, const char*, Env**)>()(kWarning, "streamseg", &env_), subject);
  check(api_->get<10, Status*(SessionOptions**)>()(&options_), subject);
  if (threads > 0) {
    check(api_->get<24, Status*(SessionOptions*, int)>()(options_, threads), "threads");
  }
  check(api_->get<69, Status*(int, int, MemoryInfo**)>()(kArena, kDefaultMemory, &memory_), subject);
  if (operators != nullptr) register_operators(operators);
}

Library::~Library() {
  if (memory_ != nullptr) api_->get<94, void(MemoryInfo*)>()(memory_);
  if (options_ != nullptr) api_->get<100, void(SessionOptions*)>()(options_);
  if (env_ != nullptr) api_->get<92, void(Env*)>()(env_);
  // Libraries stay loaded: their threads and thread-local memory may outlive us.
}

void Library::register_operators(const char* path) {
  const std::string subject = std::string("the operator library (") + path + ")";
  operators_ = open_library(path, subject);
  auto* call = find<Status*(SessionOptions*, const ApiBase*)>(operators_, "RegisterCustomOps", subject);
  check(call(options_, base_), subject);
}

void Library::check(Status* status, const std::string& subject) const {
  if (status == nullptr) return;
  const std::string reason = api_->get<2, const char*(const Status*)>()(status);
  api_->get<93, void(Status*)>()(status);
  throw Failure(STREAMSEG_BACKEND_FAILED, subject + ": " + reason);
}

Session* Library::make_session(const std::vector<uint8_t>& content, const std::string& name) const {
  Session* session = nullptr;
  check(api_->get<8, Status*(const Env*, const void*, size_t, const SessionOptions*, Session**)>()(
            env_, content.data(), content.size(), options_, &session),
        "ONNX Runtime refuses graph '" + name + "'");
  return session;
}

void Library::release(Session* session) const { api_->get<95, void(Session*)>()(session); }

Value* Library::wrap(void* data, size_t bytes, const std::vector<int64_t>& shape, int element_type) const {
  Value* value = nullptr;
  check(api_->get<49, Status*(const MemoryInfo*, void*, size_t, const int64_t*, size_t, int, Value**)>()(
            memory_, data, bytes, shape.data(), shape.size(), element_type, &value),
        "a tensor");
  return value;
}

void Library::release(Value* value) const { api_->get<96, void(Value*)>()(value); }

void Library::run(Session* session, const std::vector<const char*>& inputs,
                  const std::vector<const Value*>& values, const std::vector<const char*>& outputs,
                  std::vector<Value*>& results) const {
  check(api_->get<9, Status*(Session*, const void*, const char* const*, const Value* const*, size_t,
                             const char* const*, size_t, Value**)>()(
            session, nullptr, inputs.data(), values.data(), inputs.size(), outputs.data(),
            outputs.size(), results.data()),
        "a step");
}

}  // namespace streamseg::ort
