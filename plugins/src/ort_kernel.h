// The parts of a custom operator's kernel that do not depend on the provider: errors as ONNX
// Runtime statuses, checked tensors and attributes, and the operator description.
#pragma once

#include <array>
#include <climits>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops.h"
#include "ort_abi.h"

namespace streamseg::ort {

using Shape = std::vector<int64_t>;

// An error reported by ONNX Runtime itself; it is returned unchanged.
struct StatusError {
  Status* status;
};

inline void check(Status* status) {
  if (status != nullptr) throw StatusError{status};
}

template <class Body>
Status* guarded(const Api& api, const char* op, const Body& body) noexcept {
  const auto fail = [&](ErrorCode code, const char* text) noexcept {
    try {
      return api.create_status(code, (std::string(op) + ": " + text).c_str());
    } catch (...) {
      return api.create_status(code, text);
    }
  };
  try {
    body();
    return nullptr;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const std::invalid_argument& error) {
    return fail(kInvalidArgument, error.what());
  } catch (const std::bad_alloc&) {
    return fail(kFail, "out of memory");
  } catch (const std::exception& error) {
    return fail(kFail, error.what());
  }
}

struct Tensor {
  const char* name;
  Shape shape;
  const void* data;

  const float* floats() const { return static_cast<const float*>(data); }

  int64_t count() const {
    int64_t values = 1;
    for (const int64_t extent : shape) values *= extent;
    return values;
  }
};

inline const char* type_name(int element) {
  return element == kFloat ? "float32" : element == kFloat16 ? "float16" : "bfloat16";
}

inline Tensor read_value(const Api& api, const Value* value, const char* name, int wanted) {
  if (value == nullptr) throw std::invalid_argument(std::string(name) + " is missing");
  TensorInfo* info = nullptr;
  check(api.tensor_info(value, &info));
  Tensor tensor{name, {}, nullptr};
  int type = 0;
  size_t rank = 0;
  Status* status = api.element_type(info, &type);
  if (status == nullptr) status = api.rank(info, &rank);
  if (status == nullptr) {
    tensor.shape.resize(rank);
    status = api.dimensions(info, tensor.shape.data(), rank);
  }
  api.release_info(info);
  check(status);
  if (type != wanted) {
    throw std::invalid_argument(std::string(name) + " has element type " + std::to_string(type) +
                                ", expected " + type_name(wanted) + " (" +
                                std::to_string(wanted) + ")");
  }
  void* data = nullptr;
  check(api.tensor_data(const_cast<Value*>(value), &data));
  tensor.data = data;
  return tensor;
}

inline Tensor read_input(const Api& api, const KernelContext* context, size_t index,
                         const char* name, int wanted) {
  const Value* value = nullptr;
  check(api.input(context, index, &value));
  return read_value(api, value, name, wanted);
}

// An input that is a constant of the graph, read when the kernel is created.
inline Tensor read_constant(const Api& api, const KernelInfo* info, size_t index,
                            const Operand& operand) {
  int constant = 0;
  const Value* value = nullptr;
  check(api.constant_input(info, index, &constant, &value));
  if (constant == 0) {
    throw std::invalid_argument(std::string(operand.name) +
                                " is computed in the graph, expected a constant");
  }
  return read_value(api, value, operand.name, kFloat);
}

inline void* make_output(const Api& api, KernelContext* context, size_t index, const Shape& shape) {
  Value* value = nullptr;
  check(api.output(context, index, shape.data(), shape.size(), &value));
  if (value == nullptr) throw std::invalid_argument("output " + std::to_string(index) + " is missing");
  void* data = nullptr;
  check(api.tensor_data(value, &data));
  return data;
}

inline int64_t read_attribute(const Api& api, const KernelInfo* info, const char* name) {
  int64_t value = 0;
  check(api.attribute(info, name, &value));
  return value;
}

// What every kernel reads from the table: names, counts, types, checked attributes and shapes.
// kMap: the type of maps.
template <const Operator& kOp, int kMap>
struct TableKernel {
  static constexpr const char* kName = kOp.name;
  static constexpr size_t kInputs = kOp.input_count;
  static constexpr size_t kOptional = kOp.index_count;
  static constexpr size_t kOutputs = kOp.output_count;

  struct Call {
    Sizes sizes;
    std::array<Tensor, kInputs> inputs;
  };

  TableKernel(const Api& given, const KernelInfo* info)
      : api(given), sizes(kOp, read_attributes(given, info).data()) {}

  static int type_of(const Operand& operand) {
    if (operand.role == Role::kLabels) return kUint8;
    return operand.role == Role::kMap ? kMap : kFloat;
  }
  static int input_type(size_t index) { return type_of(kOp.inputs[index]); }
  static int output_type(size_t index) { return type_of(kOp.outputs[index]); }

  // The inputs of one call, checked.
  Call open(const KernelContext* context) const {
    Call call{sizes, {}};
    for (size_t i = 0; i < kInputs; ++i) {
      const Operand& operand = kOp.inputs[i];
      call.inputs[i] = read_input(api, context, i, operand.name, type_of(operand));
      const Shape& shape = call.inputs[i].shape;
      call.sizes.take(operand, shape.data(), static_cast<int64_t>(shape.size()));
    }
    return call;
  }

  void* output(KernelContext* context, const Call& call, size_t index) const {
    const Operand& operand = kOp.outputs[index];
    const auto shape = call.sizes.shape(operand);
    return make_output(api, context, index, Shape(shape.begin(), shape.begin() + operand.rank));
  }

  const Api& api;
  Sizes sizes;

  static std::array<int64_t, kMaxAttributes> read_attributes(const Api& api,
                                                             const KernelInfo* info) {
    std::array<int64_t, kMaxAttributes> values{};
    for (size_t i = 0; i < kOp.attribute_count; ++i) {
      values[i] = read_attribute(api, info, kOp.attributes[i].name);
    }
    return values;
  }
};

// A kernel: constructed with (const Api&, const KernelInfo*), `compute(KernelContext*)`, and its
// declarations: kName, kProvider (null: the CPU's), kInputs, kOptional (int32 inputs behind those,
// which only the lowering reads), kOutputs, input_type(index), output_type(index).
template <class Kernel>
Status* create_kernel(const CustomOp*, const Api* api, const KernelInfo* info, void** kernel) {
  *kernel = nullptr;
  return guarded(*api, Kernel::kName, [&] { *kernel = new Kernel(*api, info); });
}

template <class Kernel>
Status* compute(void* kernel, KernelContext* context) {
  const auto& self = *static_cast<const Kernel*>(kernel);
  return guarded(self.api, Kernel::kName, [&] { self.compute(context); });
}

template <class Kernel>
const CustomOp& describe() {
  static const CustomOp op = [] {
    CustomOp d{};
    d.version = kApiVersion;
    d.name = [](const CustomOp*) { return Kernel::kName; };
    d.provider = [](const CustomOp*) { return Kernel::kProvider; };
    d.input_type = [](const CustomOp*, size_t index) -> int {
      return index < Kernel::kInputs ? Kernel::input_type(index) : kInt32;
    };
    d.input_count = [](const CustomOp*) { return Kernel::kInputs + Kernel::kOptional; };
    d.output_type = [](const CustomOp*, size_t index) { return Kernel::output_type(index); };
    d.output_count = [](const CustomOp*) { return Kernel::kOutputs; };
    d.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    d.input_presence = [](const CustomOp*, size_t index) -> int {
      return index < Kernel::kInputs ? kRequired : kOptional;
    };
    d.output_presence = [](const CustomOp*, size_t) -> int { return kRequired; };
    d.input_memory = [](const CustomOp*, size_t) { return kMemoryDefault; };
    d.variadic_input_min = [](const CustomOp*) { return 1; };
    d.variadic_input_same = [](const CustomOp*) { return 1; };
    d.variadic_output_min = [](const CustomOp*) { return 1; };
    d.variadic_output_same = [](const CustomOp*) { return 1; };
    d.create_kernel_v2 = create_kernel<Kernel>;
    d.compute_v2 = compute<Kernel>;
    d.start_version = [](const CustomOp*) { return 1; };
    d.end_version = [](const CustomOp*) { return INT_MAX; };
    return d;
  }();
  return op;
}

// The domain of a library's kernels. Sessions keep a pointer to it, so it lives as long as the library.
template <class... Kernels>
OpDomain* shared_domain(const Api& api) {
  static std::mutex mutex;
  static OpDomain* domain = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (domain == nullptr) {
    OpDomain* made = nullptr;
    check(api.create_domain("streamseg", &made));
    (check(api.add_to_domain(made, &describe<Kernels>())), ...);
    domain = made;
  }
  return domain;
}

// The implementation of a library's RegisterCustomOps.
template <class... Kernels>
Status* register_kernels(SessionOptions* options, const ApiBase* base) {
  const Api* api = base->get_api(kApiVersion);
  if (api == nullptr) {
    return base->get_api(1)->create_status(
        kFail, "streamseg: the operators need ONNX Runtime 1.17 or newer");
  }
  return guarded(*api, "streamseg",
                 [&] { check(api->add_domain(options, shared_domain<Kernels...>(*api))); });
}

}  // namespace streamseg::ort
