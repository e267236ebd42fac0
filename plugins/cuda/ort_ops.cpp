// The operators as an ONNX Runtime custom-operator library, CUDA provider, float32 and float16 maps.
// Shapes come from the host, arrays stay on the device, and work goes to the provider's own stream.

#include "cuda_api.h"
#include "cuda_sizes.h"
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

// The first output is a map, the second the next state.
template <const Operator& kOp, int kMap>
struct WindowedKernel : TableKernel<kOp, kMap> {
  static constexpr const char* kProvider = kCuda;
  using TableKernel<kOp, kMap>::TableKernel;

  void compute(KernelContext* context) const {
    const auto call = this->open(context);
    void* y = this->output(context, call, 0);
    auto* next = static_cast<float*>(this->output(context, call, 1));
    launched(run(call.sizes, call.inputs.data(), y, next, stream_of(this->api, context)));
  }

 private:
  static int run(const Sizes& s, const Tensor* in, void* y, float* next, void* stream) {
    constexpr bool conv = kOp.input_count == kCausalConv.input_count;
    const auto sizes = cuda_sizes(s, conv ? Axis::kTaps : Axis::kStates);
    constexpr bool half = kMap == kFloat16;
    if constexpr (conv) {
      return streamseg_cuda_windowed_causal_conv(&sizes, half, in[0].data, in[1].floats(),
                                                 in[2].floats(), in[3].floats(), y, next, stream);
    } else {
      return streamseg_cuda_windowed_selective_scan(
          &sizes, half, in[0].data, in[1].data, in[2].floats(), in[3].floats(), in[4].data,
          in[5].data, in[6].floats(), in[7].data, in[8].floats(), y, next, stream);
    }
  }
};

template <int kMap>
struct LabelsKernel : TableKernel<kUpsampleArgmax, kMap> {
  static constexpr const char* kProvider = kCuda;
  using TableKernel<kUpsampleArgmax, kMap>::TableKernel;

  void compute(KernelContext* context) const {
    const auto call = this->open(context);
    const Sizes& s = call.sizes;
    void* labels = this->output(context, call, 0);
    launched(streamseg_cuda_upsample_argmax(
        call.inputs[0].data, kMap == kFloat16, s[Axis::kBatch], s[Axis::kClasses], s[Axis::kRows],
        s[Axis::kColumns], s[Axis::kHeight], s[Axis::kWidth], 0, labels,
        stream_of(this->api, context)));
  }
};

}  // namespace
}  // namespace streamseg::ort

// ONNX Runtime looks this name up in a custom-operator library.
extern "C" STREAMSEG_CUDA_API streamseg::ort::Status* RegisterCustomOps(
    streamseg::ort::SessionOptions* options, const streamseg::ort::ApiBase* base) {
  using namespace streamseg::ort;
  using namespace streamseg;
  return register_kernels<WindowedKernel<kCausalConv, kFloat>, WindowedKernel<kCausalConv, kFloat16>,
                          WindowedKernel<kSelectiveScan, kFloat>,
                          WindowedKernel<kSelectiveScan, kFloat16>, LabelsKernel<kFloat>,
                          LabelsKernel<kFloat16>>(options, base);
}
