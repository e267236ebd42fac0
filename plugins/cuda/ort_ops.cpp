// The operators as an ONNX Runtime custom-operator library, CUDA provider, float32 and float16 maps.
// Shapes come from the host, arrays stay on the device, and work goes to the provider's own stream.

#include "cuda_api.h"
#include "ort_kernel.h"

namespace streamseg::ort {
namespace {

#if defined(STREAMSEG_CUDA_TWIN)
constexpr const char* kCuda = nullptr;  // the kernels run on the CPU, so ONNX Runtime's CPU has them
#else
constexpr const char* kCuda = "CUDAExecutionProvider";
#endif

void launched(int status) {
  if (status == STREAMSEG_CUDA_INVALID_ARGUMENT) {
    throw std::invalid_argument(streamseg_cuda_last_error());
  }
  if (status != STREAMSEG_CUDA_OK) throw std::runtime_error(streamseg_cuda_last_error());
}

void* stream_of(const Api& api, const KernelContext* context) {
  void* stream = nullptr;
  check(api.compute_stream(context, &stream));
  return stream;
}

template <bool Half>
struct CudaKernel {
  static constexpr const char* kProvider = kCuda;
  static constexpr int kMap = Half ? kFloat16 : kFloat;

  explicit CudaKernel(const Api& given) : api(given) {}

  // A map, which has this kernel's type, or a parameter or state, float32 always.
  Tensor map(const KernelContext* context, size_t index, const char* name) const {
    return read_input(api, context, index, name, kMap);
  }
  Tensor parameter(const KernelContext* context, size_t index, const char* name) const {
    return read_input(api, context, index, name);
  }

  const Api& api;
};

using Check = int (*)(const streamseg_cuda_sizes*, int64_t*);

template <bool Half>
struct WindowedKernel : CudaKernel<Half> {
  WindowedKernel(const Api& api, const KernelInfo* info, Check check_sizes)
      : CudaKernel<Half>(api),
        sizes{read_attribute(api, info, "map_h"),    read_attribute(api, info, "map_w"),
              read_attribute(api, info, "window_h"), read_attribute(api, info, "window_w"),
              read_attribute(api, info, "offset_h"), read_attribute(api, info, "offset_w"),
              1,                                     1,
              1} {
    launched(check_sizes(&sizes, &cells));
  }

  int64_t tokens() const { return sizes.map_h * sizes.map_w; }

  streamseg_cuda_sizes sizes;
  int64_t cells = 0;
};

template <bool Half>
struct ConvKernel : WindowedKernel<Half> {
  static constexpr const char* kName = "WindowedCausalConv";
  static constexpr size_t kInputs = 4;
  static constexpr size_t kOptional = 3;
  static constexpr size_t kOutputs = 2;
  static int input_type(size_t index) { return index == 0 ? CudaKernel<Half>::kMap : kFloat; }
  static int output_type(size_t index) { return input_type(index); }

  ConvKernel(const Api& api, const KernelInfo* info)
      : WindowedKernel<Half>(api, info, streamseg_cuda_check_conv) {}

  void compute(KernelContext* context) const {
    const Tensor x = this->map(context, 0, "x");
    const Tensor weight = this->parameter(context, 1, "weight");
    const Tensor bias = this->parameter(context, 2, "bias");
    const Tensor state = this->parameter(context, 3, "state");
    x.expect({-1, this->tokens(), -1}, "batch, map_h * map_w, channels");
    const int64_t channels = x.shape[2];
    weight.expect({channels, -1}, "channels, taps");
    bias.expect({channels}, "channels");
    auto sizes = this->sizes;
    sizes.batch = x.shape[0];
    sizes.channels = channels;
    sizes.depth = weight.shape[1];
    state.expect({sizes.batch, this->cells, channels, sizes.depth - 1},
                 "batch, cells, channels, taps - 1");
    void* y = make_output(this->api, context, 0, x.shape);
    void* next = make_output(this->api, context, 1, state.shape);
    launched(streamseg_cuda_windowed_causal_conv(
        &sizes, Half, x.data, weight.floats(), bias.floats(), state.floats(), y,
        static_cast<float*>(next), stream_of(this->api, context)));
  }
};

template <bool Half>
struct ScanKernel : WindowedKernel<Half> {
  static constexpr const char* kName = "WindowedSelectiveScan";
  static constexpr size_t kInputs = 9;
  static constexpr size_t kOptional = 2;
  static constexpr size_t kOutputs = 2;
  static int input_type(size_t index) {  // u, dt, B, C and z are maps
    const bool is_map = index < 2 || index == 4 || index == 5 || index == 7;
    return is_map ? CudaKernel<Half>::kMap : kFloat;
  }
  static int output_type(size_t index) { return index == 0 ? CudaKernel<Half>::kMap : kFloat; }

  ScanKernel(const Api& api, const KernelInfo* info)
      : WindowedKernel<Half>(api, info, streamseg_cuda_check_scan) {}

  void compute(KernelContext* context) const {
    const Tensor u = this->map(context, 0, "u");
    const Tensor dt = this->map(context, 1, "dt");
    const Tensor dt_bias = this->parameter(context, 2, "dt_bias");
    const Tensor A = this->parameter(context, 3, "A");
    const Tensor B = this->map(context, 4, "B");
    const Tensor C = this->map(context, 5, "C");
    const Tensor skip = this->parameter(context, 6, "skip");
    const Tensor z = this->map(context, 7, "z");
    const Tensor state = this->parameter(context, 8, "state");
    u.expect({-1, this->tokens(), -1}, "batch, map_h * map_w, channels");
    auto sizes = this->sizes;
    sizes.batch = u.shape[0];
    sizes.channels = u.shape[2];
    A.expect({sizes.channels, -1}, "channels, states");
    sizes.depth = A.shape[1];
    const Shape narrow{sizes.batch, this->tokens(), sizes.depth};
    dt.expect(u.shape, "as u");
    z.expect(u.shape, "as u");
    dt_bias.expect({sizes.channels}, "channels");
    skip.expect({sizes.channels}, "channels");
    B.expect(narrow, "batch, map_h * map_w, states");
    C.expect(narrow, "batch, map_h * map_w, states");
    state.expect({sizes.batch, this->cells, sizes.channels, sizes.depth},
                 "batch, cells, channels, states");
    void* y = make_output(this->api, context, 0, u.shape);
    void* next = make_output(this->api, context, 1, state.shape);
    launched(streamseg_cuda_windowed_selective_scan(
        &sizes, Half, 0, u.data, dt.data, dt_bias.floats(), A.floats(), B.data, C.data,
        skip.floats(), z.data, state.floats(), y, static_cast<float*>(next),
        stream_of(this->api, context)));
  }
};

template <bool Half>
struct ArgmaxKernel : CudaKernel<Half> {
  static constexpr const char* kName = "UpsampleArgmax";
  static constexpr size_t kInputs = 1;
  static constexpr size_t kOptional = 0;
  static constexpr size_t kOutputs = 1;
  static int input_type(size_t) { return CudaKernel<Half>::kMap; }
  static int output_type(size_t) { return kUint8; }

  ArgmaxKernel(const Api& api, const KernelInfo* info)
      : CudaKernel<Half>(api), height(read_attribute(api, info, "height")),
        width(read_attribute(api, info, "width")) {
    // The rest is checked with the input's shape; a negative size must not reach an allocation.
    if (height < 1 || width < 1) {
      throw std::invalid_argument("height and width are " + std::to_string(height) + " and " +
                                  std::to_string(width) + ", expected at least 1");
    }
  }

  void compute(KernelContext* context) const {
    const Tensor logits = this->map(context, 0, "logits");
    logits.expect({-1, -1, -1, -1}, "batch, classes, height, width");
    const Shape& s = logits.shape;
    void* labels = make_output(this->api, context, 0, {s[0], height, width});
    launched(streamseg_cuda_upsample_argmax(logits.data, Half, s[0], s[1], s[2], s[3], height,
                                            width, 0, labels, stream_of(this->api, context)));
  }

  int64_t height;
  int64_t width;
};

}  // namespace
}  // namespace streamseg::ort

// ONNX Runtime looks this name up in a custom-operator library.
extern "C" STREAMSEG_CUDA_API streamseg::ort::Status* RegisterCustomOps(
    streamseg::ort::SessionOptions* options, const streamseg::ort::ApiBase* base) {
  using namespace streamseg::ort;
  return register_kernels<ConvKernel<false>, ConvKernel<true>, ScanKernel<false>, ScanKernel<true>,
                          ArgmaxKernel<false>, ArgmaxKernel<true>>(options, base);
}
