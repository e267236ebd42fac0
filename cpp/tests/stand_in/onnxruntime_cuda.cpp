// Replaces an ONNX Runtime with a CUDA provider. The real library of this machine computes on the
// host; device tensors are identified only by the addresses of the stand-in.
//
// It is stricter than the real library. Every second input counts as read by a node on the host and
// is copied when it is bound. Outputs are written when they are synchronized, not before. Tensors
// outside live device memory, runs without a binding, and options that would round to TF32 are
// rejected; with STREAMSEG_STAND_IN_FLOAT16, so are options that would take tensor cores from
// float16.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "device.h"

namespace {

using Entry = void (*)();
struct Api {
  Entry entries[400];
};
struct ApiBase {
  const Api* (*get_api)(uint32_t);
  const char* (*version)();
};
struct Tensor {
  void* real;  // over the block's bytes
  uint8_t* bytes;
  size_t size;
  std::vector<int64_t> shape;
  int type;
};
struct Binding {
  void* session;
  std::vector<std::string> input_names, output_names;
  std::map<std::string, Tensor*> inputs, outputs;
  std::map<std::string, std::vector<uint8_t>> copied;     // of inputs that the host reads
  std::map<std::string, std::vector<uint8_t>> unwritten;  // of the last run
};

const ApiBase* real_base;
const Api* real;
Api table;
int cuda_memory, cuda_options;
std::set<void*> cuda_settings;  // session options with the provider
std::set<void*> cuda_sessions;
std::mutex mutex;
std::map<void*, Tensor*> tensors;
bool exact = false;
void* host_memory = nullptr;

template <class Function>
Function* entry(int place) {
  return reinterpret_cast<Function*>(real->entries[place]);
}

void* refuse(const char* text) { return entry<void*(int, const char*)>(0)(2, text); }

void* make_options(void** out) {
  exact = false;
  *out = &cuda_options;
  return nullptr;
}
void release_options(void*) {}
void* set_options(void* options, const char* const* keys, const char* const* values, size_t count) {
  if (options != &cuda_options) return refuse("not the provider's options");
  for (size_t i = 0; i < count; ++i) {
    const std::string key = keys[i];
    if (key == "use_tf32") {
      exact = std::string(values[i]) == "0";
    } else if (key != "device_id" || std::string(values[i]) != "0") {
      return refuse("unknown option of the CUDA provider");
    }
  }
  return nullptr;
}
void* append_provider(void* settings, const void* options) {
  if (options != &cuda_options) return refuse("not the provider's options");
  const bool float16 = std::getenv("STREAMSEG_STAND_IN_FLOAT16") != nullptr;
  if (!float16 && !exact) return refuse("products would be rounded to TF32");
  if (float16 && exact) return refuse("float16 would lose its tensor cores");
  cuda_settings.insert(settings);
  return nullptr;
}
void* make_memory_info(const char* name, int allocator, int id, int type, void** out) {
  if (std::string(name) != "Cuda") return entry<void*(const char*, int, int, int, void**)>(68)(name, allocator, id, type, out);
  *out = &cuda_memory;
  return id == 0 ? nullptr : refuse("no such device");
}
void release_memory_info(void* info) {
  if (info != &cuda_memory) entry<void(void*)>(94)(info);
}
void* make_session(const void* env, const void* content, size_t size, void* settings, void** out) {
  void* status = entry<void*(const void*, const void*, size_t, const void*, void**)>(8)(env, content, size, settings, out);
  if (status == nullptr && cuda_settings.count(settings) != 0) cuda_sessions.insert(*out);
  return status;
}
void* wrap_host(void* data, size_t bytes, const int64_t* shape, size_t rank, int type, void** out) {
  static std::once_flag made;
  std::call_once(made, [] { entry<void*(int, int, void**)>(69)(1, 0, &host_memory); });
  return entry<void*(const void*, void*, size_t, const int64_t*, size_t, int, void**)>(49)(host_memory, data, bytes, shape,
                                                                                         rank, type, out);
}
void* wrap(const void* info, void* data, size_t bytes, const int64_t* shape, size_t rank, int type, void** out) {
  if (info != &cuda_memory) return refuse("a tensor of the host in a session on the device");
  const auto address = reinterpret_cast<uint64_t>(data);
  if (!stand_in_holds(address, bytes)) return refuse("a tensor outside the device's memory");
  auto* bytes_of = reinterpret_cast<uint8_t*>(stand_in::to_host(address));
  void* status = wrap_host(bytes_of, bytes, shape, rank, type, out);
  const std::lock_guard<std::mutex> guard(mutex);
  if (status == nullptr) tensors[*out] = new Tensor{*out, bytes_of, bytes, {shape, shape + rank}, type};
  return status;
}
Tensor* tensor_of(const void* value) {
  const std::lock_guard<std::mutex> guard(mutex);
  return tensors.at(const_cast<void*>(value));
}
void release_value(void* value) {
  delete tensor_of(value);
  {
    const std::lock_guard<std::mutex> guard(mutex);
    tensors.erase(value);
  }
  entry<void(void*)>(96)(value);
}
void* run_plainly(void*, const void*, const char* const*, void* const*, size_t, const char* const*, size_t, void**) {
  return refuse("a run without a binding");
}
void* make_binding(void* session, void** out) {
  if (cuda_sessions.count(session) == 0) return refuse("the session has no CUDA provider");
  *out = new Binding{session, {}, {}, {}, {}, {}, {}};
  return nullptr;
}
void release_binding(void* binding) { delete static_cast<Binding*>(binding); }

bool read_by_host(const std::string& name) {
  unsigned sum = 0;
  for (const char c : name) sum += static_cast<unsigned char>(c);
  return sum % 2 == 0;
}
void* bind_input(void* handle, const char* name, const void* value) {
  auto* binding = static_cast<Binding*>(handle);
  Tensor* tensor = tensor_of(value);
  binding->inputs[name] = tensor;
  if (read_by_host(name)) binding->copied[name].assign(tensor->bytes, tensor->bytes + tensor->size);
  return nullptr;
}
void* bind_output(void* handle, const char* name, const void* value) {
  static_cast<Binding*>(handle)->outputs[name] = tensor_of(value);
  return nullptr;
}
void* run_with_binding(void* session, const void*, const void* handle) {
  auto* binding = static_cast<Binding*>(const_cast<void*>(handle));
  if (binding->session != session) return refuse("the binding is of another session");
  std::vector<const char*> in_names, out_names;
  std::vector<void*> ins, outs;
  for (auto& [name, tensor] : binding->inputs) {
    auto copy = binding->copied.find(name);
    void* value = nullptr;
    uint8_t* bytes = copy == binding->copied.end() ? tensor->bytes : copy->second.data();
    wrap_host(bytes, tensor->size, tensor->shape.data(), tensor->shape.size(), tensor->type, &value);
    in_names.push_back(name.c_str());
    ins.push_back(value);
  }
  for (auto& [name, tensor] : binding->outputs) {
    auto& bytes = binding->unwritten[name];
    bytes.assign(tensor->size, 0x5A);
    void* value = nullptr;
    wrap_host(bytes.data(), bytes.size(), tensor->shape.data(), tensor->shape.size(), tensor->type, &value);
    out_names.push_back(name.c_str());
    outs.push_back(value);
  }
  void* status = entry<void*(void*, const void*, const char* const*, void* const*, size_t, const char* const*, size_t, void**)>(
      9)(session, nullptr, in_names.data(), ins.data(), ins.size(), out_names.data(), outs.size(), outs.data());
  for (auto* value : ins) entry<void(void*)>(96)(value);
  for (auto* value : outs) entry<void(void*)>(96)(value);
  return status;
}
void* synchronize_outputs(void* handle) {
  auto* binding = static_cast<Binding*>(handle);
  for (auto& [name, bytes] : binding->unwritten) std::memcpy(binding->outputs.at(name)->bytes, bytes.data(), bytes.size());
  binding->unwritten.clear();
  return nullptr;
}

template <class Function>
void replace(int place, Function* function) {
  table.entries[place] = reinterpret_cast<Entry>(function);
}

const Api* get_api(uint32_t version) {
  real = real_base->get_api(version);
  if (real == nullptr) return nullptr;
  std::memcpy(table.entries, real->entries, 275 * sizeof(Entry));
  replace(8, make_session);
  replace(9, run_plainly);
  replace(49, wrap);
  replace(68, make_memory_info);
  replace(94, release_memory_info);
  replace(96, release_value);
  replace(133, run_with_binding);
  replace(134, make_binding);
  replace(135, release_binding);
  replace(136, bind_input);
  replace(137, bind_output);
  replace(203, synchronize_outputs);
  replace(204, append_provider);
  replace(205, make_options);
  replace(206, set_options);
  replace(208, release_options);
  return &table;
}

const char* version() { return real_base->version(); }

const ApiBase base = {get_api, version};

}  // namespace

extern "C" const ApiBase* OrtGetApiBase() {
  void* handle = dlopen(std::getenv("STREAMSEG_REAL_ONNXRUNTIME"), RTLD_NOW | RTLD_LOCAL);
  real_base = reinterpret_cast<const ApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"))();
  return &base;
}
