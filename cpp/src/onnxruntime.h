// ONNX Runtime through its C interface, opened at run time; its entries are declared by us.
//
// The interface is a table of function pointers that only ever grows, so an entry is fixed by its
// place. Version 17 is asked for, which every ONNX Runtime since 1.17 gives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace streamseg::ort {

struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct MemoryInfo;
struct Value;
struct ApiBase;
struct Api;

// The library, its environment, and how sessions are made.
class Library {
 public:
  // Throws Failure (STREAMSEG_BACKEND_FAILED) where a library is missing or too old.
  Library(const char* path, const char* operators, int threads);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  Session* make_session(const std::vector<uint8_t>& content, const std::string& name) const;
  void release(Session* session) const;
  // A tensor over memory of the caller, which must outlive it.
  Value* wrap(void* data, size_t bytes, const std::vector<int64_t>& shape, int element_type) const;
  void release(Value* value) const;
  void run(Session* session, const std::vector<const char*>& inputs,
           const std::vector<const Value*>& values, const std::vector<const char*>& outputs,
           std::vector<Value*>& results) const;

 private:
  void check(Status* status, const std::string& subject) const;
  void register_operators(const char* path);

  void* handle_ = nullptr;
  void* operators_ = nullptr;
  const ApiBase* base_ = nullptr;
  const Api* api_ = nullptr;
  Env* env_ = nullptr;
  SessionOptions* options_ = nullptr;
  MemoryInfo* memory_ = nullptr;
};

}  // namespace streamseg::ort
