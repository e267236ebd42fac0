// What a custom operator's kernel is made of, whatever provider it runs on: its errors as ONNX
// Runtime's statuses, checked tensors and attributes, and the description handed over.
#pragma once

#include <climits>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace streamseg::ort {

using Shape = std::vector<int64_t>;

// An error that ONNX Runtime itself reported; it goes back as it came.
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

inline std::string text(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    out += (i > 0 ? ", " : "") + (shape[i] < 0 ? std::string("?") : std::to_string(shape[i]));
  }
  return out + "]";
}

struct Tensor {
  const char* name;
  Shape shape;
  const void* data;

  const float* floats() const { return static_cast<const float*>(data); }

  // -1 stands for any size.
  void expect(const Shape& wanted, const char* axes) const {
    bool same = shape.size() == wanted.size();
    for (size_t i = 0; same && i < wanted.size(); ++i) {
      same = wanted[i] < 0 || shape[i] == wanted[i];
    }
    if (!same) {
      throw std::invalid_argument(std::string(name) + " has shape " + text(shape) + ", expected " +
                            text(wanted) + " (" + axes + ")");
    }
  }
};

inline Tensor read_input(const Api& api, const KernelContext* context, size_t index, const char* name,
                  int wanted = kFloat) {
  const Value* value = nullptr;
  check(api.input(context, index, &value));
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
                                ", expected " + (wanted == kFloat ? "float32" : "float16") + " (" +
                                std::to_string(wanted) + ")");
  }
  void* data = nullptr;
  check(api.tensor_data(const_cast<Value*>(value), &data));
  tensor.data = data;
  return tensor;
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

// A kernel: constructed with (const Api&, const KernelInfo*), `compute(KernelContext*)`, and what it
// declares: kName, kProvider (null: the CPU's), kInputs, kOptional (int32 inputs behind those, which
// only the lowering reads), kOutputs, input_type(index), output_type(index).
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

// What a library's RegisterCustomOps does.
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
