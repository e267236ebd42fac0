// The operators as an ONNX Runtime custom-operator library, CPU provider.
#include <algorithm>
#include <climits>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "c_api.h"
#include "operators.h"
#include "ort_abi.h"

namespace streamseg::ort {
namespace {

using Shape = std::vector<int64_t>;

// An error that ONNX Runtime itself reported; it goes back as it came.
struct StatusError {
  Status* status;
};

void check(Status* status) {
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
  } catch (const InvalidArgument& error) {
    return fail(kInvalidArgument, error.what());
  } catch (const std::bad_alloc&) {
    return fail(kFail, "out of memory");
  } catch (const std::exception& error) {
    return fail(kFail, error.what());
  }
}

// The session's own pool. Its width is not told, so there is one task for every core; tasks take
// items until none is left, and surplus ones return at once.
class SessionExecutor : public Executor {
 public:
  SessionExecutor(const Api& api, const KernelContext* context) : api_(api), context_(context) {}
  int64_t width() const override {
    return std::max<int64_t>(1, std::thread::hardware_concurrency());
  }
  void run(int64_t total, void (*task)(void*, size_t), void* argument) const override {
    if (total <= 1) {
      task(argument, 0);
    } else {
      check(api_.parallel_for(context_, task, static_cast<size_t>(total), 0, argument));
    }
  }

 private:
  const Api& api_;
  const KernelContext* context_;
};

std::string text(const Shape& shape) {
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
      throw InvalidArgument(std::string(name) + " has shape " + text(shape) + ", expected " +
                            text(wanted) + " (" + axes + ")");
    }
  }
};

Tensor read_input(const Api& api, const KernelContext* context, size_t index, const char* name) {
  const Value* value = nullptr;
  check(api.input(context, index, &value));
  if (value == nullptr) throw InvalidArgument(std::string(name) + " is missing");
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
  if (type != kFloat) {
    throw InvalidArgument(std::string(name) + " has element type " + std::to_string(type) +
                          ", expected float32 (1)");
  }
  void* data = nullptr;
  check(api.tensor_data(const_cast<Value*>(value), &data));
  tensor.data = data;
  return tensor;
}

void* make_output(const Api& api, KernelContext* context, size_t index, const Shape& shape) {
  Value* value = nullptr;
  check(api.output(context, index, shape.data(), shape.size(), &value));
  if (value == nullptr) throw InvalidArgument("output " + std::to_string(index) + " is missing");
  void* data = nullptr;
  check(api.tensor_data(value, &data));
  return data;
}

int64_t read_attribute(const Api& api, const KernelInfo* info, const char* name) {
  int64_t value = 0;
  check(api.attribute(info, name, &value));
  return value;
}

struct WindowedKernel {
  WindowedKernel(const Api& api, const KernelInfo* info)
      : api(api),
        grid(make_grid(read_attribute(api, info, "map_h"), read_attribute(api, info, "map_w"),
                       read_attribute(api, info, "window_h"), read_attribute(api, info, "window_w"),
                       read_attribute(api, info, "offset_h"),
                       read_attribute(api, info, "offset_w"))) {}

  const Api& api;
  WindowGrid grid;
};

struct ConvKernel : WindowedKernel {
  static constexpr const char* kName = "WindowedCausalConv";
  static constexpr size_t kInputs = 4;
  static constexpr size_t kOptional = 3;  // order, inverse, tail: only the lowering reads them
  static constexpr size_t kOutputs = 2;
  static constexpr int kOutputType = kFloat;
  using WindowedKernel::WindowedKernel;

  void compute(KernelContext* context) const {
    const Tensor x = read_input(api, context, 0, "x");
    const Tensor weight = read_input(api, context, 1, "weight");
    const Tensor bias = read_input(api, context, 2, "bias");
    const Tensor state = read_input(api, context, 3, "state");
    x.expect({-1, grid.tokens(), -1}, "batch, map_h * map_w, channels");
    const int64_t batch = x.shape[0];
    const int64_t channels = x.shape[2];
    weight.expect({channels, -1}, "channels, taps");
    const int64_t taps = weight.shape[1];
    bias.expect({channels}, "channels");
    state.expect({batch, grid.cells(), channels, taps - 1}, "batch, cells, channels, taps - 1");
    auto* y = static_cast<float*>(make_output(api, context, 0, x.shape));
    auto* next = static_cast<float*>(make_output(api, context, 1, state.shape));
    windowed_causal_conv<float>({grid, batch, channels, taps, x.floats(), weight.floats(),
                                 bias.floats(), state.floats(), y, next},
                                SessionExecutor(api, context));
  }
};

struct ScanKernel : WindowedKernel {
  static constexpr const char* kName = "WindowedSelectiveScan";
  static constexpr size_t kInputs = 9;
  static constexpr size_t kOptional = 2;  // order, inverse: only the lowering reads them
  static constexpr size_t kOutputs = 2;
  static constexpr int kOutputType = kFloat;
  using WindowedKernel::WindowedKernel;

  void compute(KernelContext* context) const {
    const Tensor u = read_input(api, context, 0, "u");
    const Tensor dt = read_input(api, context, 1, "dt");
    const Tensor dt_bias = read_input(api, context, 2, "dt_bias");
    const Tensor A = read_input(api, context, 3, "A");
    const Tensor B = read_input(api, context, 4, "B");
    const Tensor C = read_input(api, context, 5, "C");
    const Tensor skip = read_input(api, context, 6, "skip");
    const Tensor z = read_input(api, context, 7, "z");
    const Tensor state = read_input(api, context, 8, "state");
    u.expect({-1, grid.tokens(), -1}, "batch, map_h * map_w, channels");
    const int64_t batch = u.shape[0];
    const int64_t channels = u.shape[2];
    A.expect({channels, -1}, "channels, states");
    const int64_t states = A.shape[1];
    dt.expect(u.shape, "as u");
    z.expect(u.shape, "as u");
    dt_bias.expect({channels}, "channels");
    skip.expect({channels}, "channels");
    B.expect({batch, grid.tokens(), states}, "batch, map_h * map_w, states");
    C.expect({batch, grid.tokens(), states}, "batch, map_h * map_w, states");
    state.expect({batch, grid.cells(), channels, states}, "batch, cells, channels, states");
    auto* y = static_cast<float*>(make_output(api, context, 0, u.shape));
    auto* next = static_cast<float*>(make_output(api, context, 1, state.shape));
    windowed_selective_scan<float>(
        {grid, batch, channels, states, u.floats(), dt.floats(), dt_bias.floats(), A.floats(),
         B.floats(), C.floats(), skip.floats(), z.floats(), state.floats(), y, next, nullptr},
        SessionExecutor(api, context));
  }
};

struct ArgmaxOpKernel {
  static constexpr const char* kName = "UpsampleArgmax";
  static constexpr size_t kInputs = 1;
  static constexpr size_t kOptional = 0;
  static constexpr size_t kOutputs = 1;
  static constexpr int kOutputType = kUint8;

  ArgmaxOpKernel(const Api& api, const KernelInfo* info)
      : api(api), height(read_attribute(api, info, "height")),
        width(read_attribute(api, info, "width")) {
    // The rest is checked with the input's shape; a negative size must not reach an allocation.
    if (height < 1 || width < 1) {
      throw InvalidArgument("height and width are " + std::to_string(height) + " and " +
                            std::to_string(width) + ", expected at least 1");
    }
  }

  void compute(KernelContext* context) const {
    const Tensor logits = read_input(api, context, 0, "logits");
    logits.expect({-1, -1, -1, -1}, "batch, classes, height, width");
    const Shape& s = logits.shape;
    auto* labels =
        static_cast<uint8_t*>(make_output(api, context, 0, {s[0], height, width}));
    upsample_argmax({s[0], s[1], s[2], s[3], height, width, logits.floats(), labels, nullptr,
                     nullptr, nullptr},
                    SessionExecutor(api, context));
  }

  const Api& api;
  int64_t height;
  int64_t width;
};

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
    d.provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU's
    d.input_type = [](const CustomOp*, size_t index) -> int {
      return index < Kernel::kInputs ? kFloat : kInt32;
    };
    d.input_count = [](const CustomOp*) { return Kernel::kInputs + Kernel::kOptional; };
    d.output_type = [](const CustomOp*, size_t) { return Kernel::kOutputType; };
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

// Sessions keep a pointer to the domain, so it lives as long as the library.
OpDomain* shared_domain(const Api& api) {
  static std::mutex mutex;
  static OpDomain* domain = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (domain == nullptr) {
    OpDomain* made = nullptr;
    check(api.create_domain("streamseg", &made));
    check(api.add_to_domain(made, &describe<ConvKernel>()));
    check(api.add_to_domain(made, &describe<ScanKernel>()));
    check(api.add_to_domain(made, &describe<ArgmaxOpKernel>()));
    domain = made;
  }
  return domain;
}

}  // namespace
}  // namespace streamseg::ort

// ONNX Runtime looks this name up in a custom-operator library.
extern "C" STREAMSEG_API streamseg::ort::Status* RegisterCustomOps(
    streamseg::ort::SessionOptions* options, const streamseg::ort::ApiBase* base) {
  using namespace streamseg::ort;
  const Api* api = base->get_api(kApiVersion);
  if (api == nullptr) {
    return base->get_api(1)->create_status(
        kFail, "streamseg: the operators need ONNX Runtime 1.17 or newer");
  }
  return guarded(*api, "streamseg", [&] { check(api->add_domain(options, shared_domain(*api))); });
}
