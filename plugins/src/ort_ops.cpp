// The operators as an ONNX Runtime custom-operator library, CPU provider.
#include <algorithm>
#include <string>
#include <thread>

#include "c_api.h"
#include "half.h"
#include "operators.h"
#include "ort_kernel.h"

namespace streamseg::ort {
namespace {

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

// A map of the kernel's type as float32: float16 is widened into a copy. A processor multiplies no
// faster in float16; bundles for GPUs run here to be checked.
template <int kType>
class Map : public Tensor {
 public:
  Map(const Api& api, const KernelContext* context, size_t index, const char* name)
      : Tensor(read_input(api, context, index, name, kType)) {
    if constexpr (kType == kFloat16) {
      const auto* halves = static_cast<const uint16_t*>(data);
      copy_.resize(static_cast<size_t>(count(shape)));
      for (size_t i = 0; i < copy_.size(); ++i) copy_[i] = widen_half(halves[i]);
      data = copy_.data();
    }
  }

  static int64_t count(const Shape& shape) {
    int64_t values = 1;
    for (const int64_t extent : shape) values *= extent;
    return values;
  }

 private:
  std::vector<float> copy_;
};

// An output map of the kernel's type, written as float32 and narrowed by `finish`.
template <int kType>
class OutputMap {
 public:
  OutputMap(const Api& api, KernelContext* context, size_t index, const Shape& shape)
      : data_(make_output(api, context, index, shape)) {
    if constexpr (kType == kFloat16) copy_.resize(static_cast<size_t>(Map<kType>::count(shape)));
  }

  float* floats() { return kType == kFloat16 ? copy_.data() : static_cast<float*>(data_); }

  void finish() {
    auto* halves = static_cast<uint16_t*>(data_);
    for (size_t i = 0; i < copy_.size(); ++i) halves[i] = narrow_float(copy_[i]);
  }

 private:
  void* data_;
  std::vector<float> copy_;
};

struct WindowedKernel {
  WindowedKernel(const Api& api, const KernelInfo* info)
      : api(api),
        grid(make_grid(read_attribute(api, info, "map_h"), read_attribute(api, info, "map_w"),
                       read_attribute(api, info, "window_h"), read_attribute(api, info, "window_w"),
                       read_attribute(api, info, "offset_h"),
                       read_attribute(api, info, "offset_w"))) {}

  static constexpr const char* kProvider = nullptr;

  const Api& api;
  WindowGrid grid;
};

// kMap: the type of maps; weights and state are float32.
template <int kMap>
struct ConvKernel : WindowedKernel {
  static constexpr const char* kName = "WindowedCausalConv";
  static constexpr size_t kInputs = 4;
  static constexpr size_t kOptional = 3;  // order, inverse, tail: only the lowering reads them
  static constexpr size_t kOutputs = 2;
  static int input_type(size_t index) { return index == 0 ? kMap : kFloat; }
  static int output_type(size_t index) { return input_type(index); }
  using WindowedKernel::WindowedKernel;

  void compute(KernelContext* context) const {
    const Map<kMap> x(api, context, 0, "x");
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
    OutputMap<kMap> y(api, context, 0, x.shape);
    auto* next = static_cast<float*>(make_output(api, context, 1, state.shape));
    windowed_causal_conv<float>({grid, batch, channels, taps, x.floats(), weight.floats(),
                                 bias.floats(), state.floats(), y.floats(), next},
                                SessionExecutor(api, context));
    y.finish();
  }
};

template <int kMap>
struct ScanKernel : WindowedKernel {
  static constexpr const char* kName = "WindowedSelectiveScan";
  static constexpr size_t kInputs = 9;
  static constexpr size_t kOptional = 2;  // order, inverse: only the lowering reads them
  static constexpr size_t kOutputs = 2;
  static int input_type(size_t index) {  // u, dt, B, C and z are maps
    const bool is_map = index < 2 || index == 4 || index == 5 || index == 7;
    return is_map ? kMap : kFloat;
  }
  static int output_type(size_t index) { return index == 0 ? kMap : kFloat; }
  using WindowedKernel::WindowedKernel;

  void compute(KernelContext* context) const {
    const Map<kMap> u(api, context, 0, "u");
    const Map<kMap> dt(api, context, 1, "dt");
    const Tensor dt_bias = read_input(api, context, 2, "dt_bias");
    const Tensor A = read_input(api, context, 3, "A");
    const Map<kMap> B(api, context, 4, "B");
    const Map<kMap> C(api, context, 5, "C");
    const Tensor skip = read_input(api, context, 6, "skip");
    const Map<kMap> z(api, context, 7, "z");
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
    OutputMap<kMap> y(api, context, 0, u.shape);
    auto* next = static_cast<float*>(make_output(api, context, 1, state.shape));
    windowed_selective_scan<float>(
        {grid, batch, channels, states, u.floats(), dt.floats(), dt_bias.floats(), A.floats(),
         B.floats(), C.floats(), skip.floats(), z.floats(), state.floats(), y.floats(), next,
         nullptr},
        SessionExecutor(api, context));
    y.finish();
  }
};

struct ArgmaxOpKernel {
  static constexpr const char* kName = "UpsampleArgmax";
  static constexpr size_t kInputs = 1;
  static constexpr size_t kOptional = 0;
  static constexpr size_t kOutputs = 1;
  static constexpr const char* kProvider = nullptr;
  static int input_type(size_t) { return kFloat; }
  static int output_type(size_t) { return kUint8; }

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

}  // namespace
}  // namespace streamseg::ort

// ONNX Runtime looks this name up in a custom-operator library.
extern "C" STREAMSEG_API streamseg::ort::Status* RegisterCustomOps(
    streamseg::ort::SessionOptions* options, const streamseg::ort::ApiBase* base) {
  using namespace streamseg::ort;
  return register_kernels<ConvKernel<kFloat>, ConvKernel<kFloat16>, ScanKernel<kFloat>,
                          ScanKernel<kFloat16>, ArgmaxOpKernel>(options, base);
}
