// The operators as an ONNX Runtime custom-operator library, CPU provider.
#include <algorithm>
#include <array>
#include <thread>
#include <vector>

#include "c_api.h"
#include "narrow_maps.h"
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

// CPUs do not multiply faster in float16: bundles for GPUs run here only to be checked.
constexpr MapType map_type(int element) {
  return element == kFloat16    ? MapType::kFloat16
         : element == kBfloat16 ? MapType::kBfloat16
                                : MapType::kFloat32;
}

// The first output is a map, the second the next state.
template <const Operator& kOp, int kMap>
struct WindowedKernel : TableKernel<kOp, kMap> {
  static constexpr const char* kProvider = nullptr;
  using TableKernel<kOp, kMap>::TableKernel;

  void compute(KernelContext* context) const {
    const auto call = this->open(context);
    const SessionExecutor executor(this->api, context);
    InputMaps maps;
    std::array<const float*, kOp.input_count> in;
    for (size_t i = 0; i < in.size(); ++i) {
      in[i] = maps.read(call.inputs[i].data, call.inputs[i].count(), map_type(this->input_type(i)),
                        executor);
    }
    OutputMap y(this->output(context, call, 0), call.inputs[0].count(), map_type(kMap));
    auto* next = static_cast<float*>(this->output(context, call, 1));
    run(call.sizes, in.data(), y.floats(), next, executor);
    y.finish(executor);
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
template <int kMap>
struct LayerKernel : TableKernel<kMambaLayer, kMap> {
  using Base = TableKernel<kMambaLayer, kMap>;
  static constexpr const char* kProvider = nullptr;

  LayerKernel(const Api& given, const KernelInfo* info)
      : Base(given, info), pack_(read_pack(info)) {}

  void compute(KernelContext* context) const {
    const auto call = this->open(context);
    const SessionExecutor executor(this->api, context);
    InputMaps maps;
    const int64_t count = call.inputs[0].count();
    const float* x = maps.read(call.inputs[0].data, count, map_type(kMap), executor);
    OutputMap y(this->output(context, call, 0), count, map_type(kMap));
    auto* conv = static_cast<float*>(this->output(context, call, 1));
    auto* scan = static_cast<float*>(this->output(context, call, 2));
    windowed_mamba_layer({call.sizes.grid(), call.sizes[Axis::kBatch], nullptr, x,
                          call.inputs[12].floats(), call.inputs[13].floats(), y.floats(), conv, scan},
                         pack_, executor);
    y.finish(executor);
  }

 private:
  LayerPack read_pack(const KernelInfo* info) {
    std::array<const float*, Base::kInputs> w{};
    Sizes& sizes = this->sizes;
    for (size_t i = 0; i < w.size(); ++i) {
      const Operand& operand = kMambaLayer.inputs[i];
      if (operand.role != Role::kWeight) continue;
      const Tensor tensor = read_constant(this->api, info, i, operand);
      sizes.take(operand, tensor.shape.data(), static_cast<int64_t>(tensor.shape.size()));
      w[i] = tensor.floats();
    }
    const LayerSizes of{sizes[Axis::kFeatures], sizes[Axis::kChannels], sizes[Axis::kTaps],
                        sizes[Axis::kStates], sizes[Axis::kRank]};
    return LayerPack(of, {w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11]},
                     static_cast<Precision>(read_attribute(this->api, info, "precision")));
  }

  LayerPack pack_;
};

template <int kMap>
struct AttentionKernel : TableKernel<kAttention, kMap> {
  static constexpr const char* kProvider = nullptr;

  AttentionKernel(const Api& given, const KernelInfo* info)
      : TableKernel<kAttention, kMap>(given, info),
        heads_(read_attribute(given, info, "heads")),
        precision_(static_cast<Precision>(read_attribute(given, info, "precision"))) {}

  void compute(KernelContext* context) const {
    const auto call = this->open(context);
    const SessionExecutor executor(this->api, context);
    InputMaps maps;
    const auto read = [&](size_t i) {
      return maps.read(call.inputs[i].data, call.inputs[i].count(), map_type(kMap), executor);
    };
    OutputMap y(this->output(context, call, 0), call.inputs[0].count(), map_type(kMap));
    AttentionProblem problem = attention_problem(call.sizes, heads_, precision_);
    problem.q = read(0);
    problem.k = read(1);
    problem.v = read(2);
    problem.y = y.floats();
    multi_head_attention(problem, executor);
    y.finish(executor);
  }

 private:
  int64_t heads_;
  Precision precision_;
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
  return register_kernels<
      WindowedKernel<kCausalConv, kFloat>, WindowedKernel<kCausalConv, kFloat16>,
      WindowedKernel<kCausalConv, kBfloat16>, WindowedKernel<kSelectiveScan, kFloat>,
      WindowedKernel<kSelectiveScan, kFloat16>, WindowedKernel<kSelectiveScan, kBfloat16>,
      LabelsKernel, LayerKernel<kFloat>, LayerKernel<kFloat16>, LayerKernel<kBfloat16>,
      AttentionKernel<kFloat>, AttentionKernel<kFloat16>, AttentionKernel<kBfloat16>>(options, base);
}
