// ONNX Runtime through its C API, loaded at run time; this file declares the entries used.
//
// The API is a table of function pointers to which entries are only appended, so the index of an
// entry never changes. Version 17 is requested, which every ONNX Runtime since 1.17 provides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "library.h"

namespace streamseg::core::ort {

struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct MemoryInfo;
struct Value;
struct IoBinding;
struct CudaOptions;
struct ApiBase;
struct Api;

// The library, its environment, and the sessions of a bundle.
class Library {
 public:
  // Throws Failure (STREAMSEG_BACKEND_FAILED) if a library is missing or too old.
  // With `cuda`, graphs run and tensors are stored on the first CUDA device; with `float32` their
  // products in float32 are not rounded.
  Library(const streamseg_options& options, bool cuda, bool float32);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  void open_graph(const std::string& name, const Content& content);
  Session* session(const std::string& name) const { return sessions_.at(name); }

  // A tensor over memory of the caller, which must outlive it.
  Value* wrap(const Binding& binding) const;
  void release(Value* value) const;
  void run(Session* session, const std::vector<const char*>& inputs, const std::vector<const Value*>& values,
           const std::vector<const char*>& outputs, std::vector<Value*>& results) const;

  IoBinding* make_binding(Session* session) const;
  void bind_input(IoBinding* binding, const char* name, const Value* value) const;
  void bind_output(IoBinding* binding, const char* name, const Value* value) const;
  void run(Session* session, const IoBinding* binding) const;
  void release(IoBinding* binding) const;

 private:
  void check(Status* status, const std::string& subject) const;
  void register_operators(const char* path);
  void add_cuda(bool float32);
  bool at_least(int minor) const;

  SharedLibrary library_;
  const ApiBase* base_ = nullptr;
  const Api* api_ = nullptr;
  Env* env_ = nullptr;
  SessionOptions* options_ = nullptr;
  MemoryInfo* memory_ = nullptr;
  std::map<std::string, Session*> sessions_;
};

}  // namespace streamseg::core::ort
