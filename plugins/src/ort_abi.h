// Our declarations of the part of ONNX Runtime's C API, version 17, that a custom operator needs.
//
// The API is a table of function pointers to which entries are only appended, so the index of an
// entry never changes. Checked by loading into ONNX Runtime 1.17.3, 1.20, 1.23 and 1.31 (make
// ort-matrix).
#pragma once

#include <cstddef>
#include <cstdint>

namespace streamseg::ort {

constexpr uint32_t kApiVersion = 17;

enum ElementType : int { kFloat = 1, kUint8 = 2, kInt32 = 6, kFloat16 = 10, kBfloat16 = 16 };
enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum Presence : int { kRequired = 0, kOptional = 1 };
constexpr int kMemoryDefault = 0;

// Opaque types.
struct Status;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorInfo;
struct OpDomain;
struct SessionOptions;
struct ShapeContext;

using Entry = void (*)();

// Indices of entries in the table.
struct Api {
  Entry entries[275];

  template <size_t Place, class Function>
  Function* get() const {
    static_assert(Place < sizeof(entries) / sizeof(entries[0]));
    return reinterpret_cast<Function*>(entries[Place]);
  }

  Status* create_status(ErrorCode code, const char* message) const {
    return get<0, Status*(int, const char*)>()(code, message);
  }
  Status* create_domain(const char* name, OpDomain** out) const {
    return get<26, Status*(const char*, OpDomain**)>()(name, out);
  }
  Status* add_to_domain(OpDomain* domain, const void* op) const {
    return get<27, Status*(OpDomain*, const void*)>()(domain, op);
  }
  Status* add_domain(SessionOptions* options, OpDomain* domain) const {
    return get<28, Status*(SessionOptions*, OpDomain*)>()(options, domain);
  }
  Status* tensor_data(Value* value, void** out) const {
    return get<51, Status*(Value*, void**)>()(value, out);
  }
  Status* element_type(const TensorInfo* info, int* out) const {
    return get<60, Status*(const TensorInfo*, int*)>()(info, out);
  }
  Status* rank(const TensorInfo* info, size_t* out) const {
    return get<61, Status*(const TensorInfo*, size_t*)>()(info, out);
  }
  Status* dimensions(const TensorInfo* info, int64_t* out, size_t count) const {
    return get<62, Status*(const TensorInfo*, int64_t*, size_t)>()(info, out, count);
  }
  Status* tensor_info(const Value* value, TensorInfo** out) const {
    return get<65, Status*(const Value*, TensorInfo**)>()(value, out);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* out) const {
    return get<86, Status*(const KernelInfo*, const char*, int64_t*)>()(info, name, out);
  }
  Status* input_count(const KernelContext* context, size_t* out) const {
    return get<88, Status*(const KernelContext*, size_t*)>()(context, out);
  }
  Status* input(const KernelContext* context, size_t index, const Value** out) const {
    return get<90, Status*(const KernelContext*, size_t, const Value**)>()(context, index, out);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* shape, size_t rank,
                 Value** out) const {
    return get<91, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>()(
        context, index, shape, rank, out);
  }
  void release_status(Status* status) const { get<93, void(Status*)>()(status); }
  void release_info(TensorInfo* info) const { get<99, void(TensorInfo*)>()(info); }
  // The provider's stream, a cudaStream_t; null on the CPU.
  Status* compute_stream(const KernelContext* context, void** out) const {
    return get<193, Status*(const KernelContext*, void**)>()(context, out);
  }
  // The constant at input `index`; `constant` is 0 if the graph computes the input.
  Status* constant_input(const KernelInfo* info, size_t index, int* constant,
                         const Value** out) const {
    return get<249, Status*(const KernelInfo*, size_t, int*, const Value**)>()(info, index, constant,
                                                                               out);
  }
  // Calls task(argument, i) for i in [0, total) on the session's own threads.
  Status* parallel_for(const KernelContext* context, void (*task)(void*, size_t), size_t total,
                       size_t batches, void* argument) const {
    return get<274, Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t,
                            void*)>()(context, task, total, batches, argument);
  }
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*version)();
};

// The operator description that a library registers; fields as of version 17.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy)(void*);
  int (*input_presence)(const CustomOp*, size_t);
  int (*output_presence)(const CustomOp*, size_t);
  int (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_min)(const CustomOp*);
  int (*variadic_input_same)(const CustomOp*);
  int (*variadic_output_min)(const CustomOp*);
  int (*variadic_output_same)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_shapes)(const CustomOp*, ShapeContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
};

}  // namespace streamseg::ort
