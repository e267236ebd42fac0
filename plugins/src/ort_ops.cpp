// The operators as an ONNX Runtime custom-operator library, CPU provider.
#include <algorithm>
#include <array>
#include <thread>
#include <vector>

#include "c_api.h"
#include "half.h"
#include "operators.h"
#include "ort_kernel.h"

namespace streamseg::ort {
namespace {

// The session's own thread pool. Its size is unknown, so there is one task per core; tasks take
// items until none are left, and surplus tasks return immediately.
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

// Maps as float32: float16 is converted into a copy. CPUs do not multiply faster in float16;
// bundles for GPUs run here only to be checked.
class Maps {
 public:
  const float* widen(const Tensor& tensor, int type) {
    if (type == kFloat) return tensor.floats();
    const auto* halves = static_cast<const uint16_t*>(tensor.data);
    copies_.emplace_back(static_cast<size_t>(tensor.count()));
    for (size_t i = 0; i < copies_.back().size(); ++i) copies_.back()[i] = widen_half(halves[i]);
    return copies_.back().data();
  }

 private:
  std::vector<std::vector<float>> copies_;
};

// An output map of the kernel's type, written as float32 and converted by `finish`.
class OutputMap {
 public:
  OutputMap(void* data, int64_t count, int type) : data_(data) {
    if (type == kFloat16) copy_.resize(static_cast<size_t>(count));
  }

  float* floats() { return copy_.empty() ? static_cast<float*>(data_) : copy_.data(); }

  void finish() {
    auto* halves = static_cast<uint16_t*>(data_);
    for (size_t i = 0; i < copy_.size(); ++i) halves[i] = narrow_float(copy_[i]);
  }

 private:
  void* data_;
  std::vector<float> copy_;
};

// The first output is a map, the second the next state.
template <const Operator& kOp, int kMap>
struct WindowedKernel : TableKernel<kOp, kMap> {
  static constexpr const char* kProvider = nullptr;
  using TableKernel<kOp, kMap>::TableKernel;

  void compute(KernelContext* context) const {
    const auto call = this->open(context);
    Maps maps;
    std::array<const float*, kOp.input_count> in;
    for (size_t i = 0; i < in.size(); ++i) {
      in[i] = maps.widen(call.inputs[i], this->input_type(i));
    }
    OutputMap y(this->output(context, call, 0), call.inputs[0].count(), kMap);
    auto* next = static_cast<float*>(this->output(context, call, 1));
    run(call.sizes, in.data(), y.floats(), next, SessionExecutor(this->api, context));
    y.finish();
  }

  static void run(const Sizes& s, const float* const* in, float* y, float* next,
                  const Executor& executor) {
    // With sanitizers, addresses are not constant expressions; the counts distinguish the two.
    if constexpr (kOp.input_count == kCausalConv.input_count) {
      windowed_causal_conv<float>({s.grid(), s[Axis::kBatch], s[Axis::kChannels], s[Axis::kTaps],
                                   in[0], in[1], in[2], in[3], y, next},
                                  executor);
    } else {
      windowed_selective_scan<float>(
          {s.grid(), s[Axis::kBatch], s[Axis::kChannels], s[Axis::kStates], in[0], in[1], in[2],
           in[3], in[4], in[5], in[6], in[7], in[8], y, next, nullptr},
          executor);
    }
  }
};

// Weights are constants, checked and packed when the session is created.
struct LayerKernel : TableKernel<kMambaLayer, kFloat> {
  static constexpr const char* kProvider = nullptr;

  LayerKernel(const Api& given, const KernelInfo* info)
      : TableKernel(given, info), pack_(read_pack(info)) {}

  void compute(KernelContext* context) const {
    const auto call = open(context);
    auto* y = static_cast<float*>(output(context, call, 0));
    auto* conv = static_cast<float*>(output(context, call, 1));
    auto* scan = static_cast<float*>(output(context, call, 2));
    windowed_mamba_layer({call.sizes.grid(), call.sizes[Axis::kBatch], nullptr,
                          call.inputs[0].floats(), call.inputs[12].floats(),
                          call.inputs[13].floats(), y, conv, scan},
                         pack_, SessionExecutor(api, context));
  }

 private:
  LayerPack read_pack(const KernelInfo* info) {
    std::array<const float*, kInputs> w{};
    for (size_t i = 0; i < kInputs; ++i) {
      const Operand& operand = kMambaLayer.inputs[i];
      if (operand.role != Role::kWeight) continue;
      const Tensor tensor = read_constant(api, info, i, operand);
      sizes.take(operand, tensor.shape.data(), static_cast<int64_t>(tensor.shape.size()));
      w[i] = tensor.floats();
    }
    const LayerSizes of{sizes[Axis::kFeatures], sizes[Axis::kChannels], sizes[Axis::kTaps],
                        sizes[Axis::kStates], sizes[Axis::kRank]};
    return LayerPack(of, {w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11]},
                     static_cast<Precision>(read_attribute(api, info, "precision")));
  }

  LayerPack pack_;
};

struct LabelsKernel : TableKernel<kUpsampleArgmax, kFloat> {
  static constexpr const char* kProvider = nullptr;
  using TableKernel::TableKernel;

  void compute(KernelContext* context) const {
    const auto call = open(context);
    const Sizes& s = call.sizes;
    auto* labels = static_cast<uint8_t*>(output(context, call, 0));
    upsample_argmax({s[Axis::kBatch], s[Axis::kClasses], s[Axis::kRows], s[Axis::kColumns],
                     s[Axis::kHeight], s[Axis::kWidth], call.inputs[0].floats(), labels, nullptr,
                     nullptr, nullptr},
                    SessionExecutor(api, context));
  }
};

}  // namespace
}  // namespace streamseg::ort

// ONNX Runtime looks this name up in a custom-operator library.
extern "C" STREAMSEG_API streamseg::ort::Status* RegisterCustomOps(
    streamseg::ort::SessionOptions* options, const streamseg::ort::ApiBase* base) {
  using namespace streamseg::ort;
  using namespace streamseg;
  return register_kernels<WindowedKernel<kCausalConv, kFloat>, WindowedKernel<kCausalConv, kFloat16>,
                          WindowedKernel<kSelectiveScan, kFloat>,
                          WindowedKernel<kSelectiveScan, kFloat16>, LabelsKernel, LayerKernel>(options, base);
}
