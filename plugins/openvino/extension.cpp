// The operators as an OpenVINO extension: nodes of the CPU device, and how ONNX nodes become them.
//
// Compiled against one OpenVINO, whose C++ interface changes with every release; the record beside
// the library names it. Maps are float32, float16 or bfloat16; weights and states are float32.
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/op.hpp>

#include "narrow_maps.h"
#include "operators.h"

namespace streamseg::ov_shell {
namespace {

// OpenVINO's own threads. Tasks take items until all are taken, so one task a thread is enough.
class ArenaExecutor : public Executor {
 public:
  int64_t width() const override { return tbb::this_task_arena::max_concurrency(); }
  void run(int64_t total, void (*task)(void*, size_t), void* context) const override {
    if (total <= 1) return task(context, 0);
    tbb::parallel_for(
        tbb::blocked_range<int64_t>(0, total, 1),
        [&](const tbb::blocked_range<int64_t>& range) {
          for (int64_t i = range.begin(); i < range.end(); ++i) task(context, static_cast<size_t>(i));
        },
        tbb::simple_partitioner());
  }
};

bool is_map(const ov::element::Type& type) {
  return type == ov::element::f32 || type == ov::element::f16 || type == ov::element::bf16;
}

MapType map_type(const ov::element::Type& type) {
  return type == ov::element::f16    ? MapType::kFloat16
         : type == ov::element::bf16 ? MapType::kBfloat16
                                     : MapType::kFloat32;
}

const float* read(InputMaps& maps, const ov::Tensor& tensor) {
  return maps.read(tensor.data(), static_cast<int64_t>(tensor.get_size()),
                   map_type(tensor.get_element_type()), ArenaExecutor());
}

OutputMap output_map(ov::Tensor& tensor) {
  return {tensor.data(), static_cast<int64_t>(tensor.get_size()), map_type(tensor.get_element_type())};
}

// What every operator takes from the table: name, attributes, checked types and shapes.
template <const Operator& kOp>
class TableOp : public ov::op::Op {
 public:
  TableOp() { values_.fill(1); }
  TableOp(const ov::OutputVector& inputs, const std::array<int64_t, kMaxAttributes>& values)
      : Op(inputs), values_(values) {
    constructor_validate_and_infer_types();
  }

  static const ov::DiscreteTypeInfo& get_type_info_static() {
    static const ov::DiscreteTypeInfo info = [] {
      ov::DiscreteTypeInfo made(kOp.name, "streamseg");
      made.hash();
      return made;
    }();
    return info;
  }
  const ov::DiscreteTypeInfo& get_type_info() const override { return get_type_info_static(); }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    for (size_t i = 0; i < kOp.attribute_count; ++i) {
      visitor.on_attribute(kOp.attributes[i].name, values_[i]);
    }
    return true;
  }

  void validate_and_infer_types() override {
    NODE_VALIDATION_CHECK(this, get_input_size() == kOp.input_count, "got ", get_input_size(),
                          " inputs, expected ", kOp.input_count);
    Sizes sizes(kOp, values_.data());
    for (size_t i = 0; i < kOp.input_count; ++i) check_input(sizes, i);
    for (size_t i = 0; i < kOp.output_count; ++i) {
      const Operand& operand = kOp.outputs[i];
      ov::PartialShape shape = ov::PartialShape::dynamic(operand.rank);
      for (int axis = 0; axis < operand.rank; ++axis) {
        if (sizes[operand.axes[axis]] >= 0) shape[axis] = sizes[operand.axes[axis]];
      }
      set_output_type(i, output_type(operand), shape);
    }
  }

  bool has_evaluate() const override { return true; }

 protected:
  const std::array<int64_t, kMaxAttributes>& values() const { return values_; }

  // The sizes of one call, checked; outputs take their shapes.
  Sizes open(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
    Sizes sizes(kOp, values_.data());
    for (size_t i = 0; i < kOp.input_count; ++i) {
      const std::vector<int64_t> shape(inputs[i].get_shape().begin(), inputs[i].get_shape().end());
      sizes.take(kOp.inputs[i], shape.data(), static_cast<int64_t>(shape.size()));
    }
    for (size_t i = 0; i < kOp.output_count; ++i) {
      const auto shape = sizes.shape(kOp.outputs[i]);
      outputs[i].set_shape(ov::Shape(shape.begin(), shape.begin() + kOp.outputs[i].rank));
    }
    return sizes;
  }

 private:
  void check_input(Sizes& sizes, size_t index) const {
    const Operand& operand = kOp.inputs[index];
    const ov::PartialShape& given = get_input_partial_shape(index);
    const ov::element::Type type = get_input_element_type(index);
    NODE_VALIDATION_CHECK(this, type.is_dynamic() || is_map(type), operand.name, " has type ", type,
                          ", expected a floating-point type");
    if (given.rank().is_dynamic()) return;
    std::vector<int64_t> shape;
    for (const auto& extent : given) shape.push_back(extent.is_static() ? extent.get_length() : -1);
    sizes.take(operand, shape.data(), static_cast<int64_t>(shape.size()));
  }

  ov::element::Type output_type(const Operand& operand) const {
    if (operand.role == Role::kLabels) return ov::element::u8;
    return operand.role == Role::kMap ? get_input_element_type(0)
                                      : ov::element::Type(ov::element::f32);
  }

  std::array<int64_t, kMaxAttributes> values_;
};

// Convolution, scan, attention and labels: no weights to prepare.
template <const Operator& kOp>
class PlainOp : public TableOp<kOp> {
 public:
  using TableOp<kOp>::TableOp;

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return std::make_shared<PlainOp>(inputs, this->values());
  }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const Sizes s = this->open(outputs, inputs);
    InputMaps maps;
    std::array<const float*, kOp.input_count> in;
    for (size_t i = 0; i < in.size(); ++i) in[i] = read(maps, inputs[i]);
    if constexpr (kOp.input_count == kUpsampleArgmax.input_count) {
      upsample_argmax({s[Axis::kBatch], s[Axis::kClasses], s[Axis::kRows], s[Axis::kColumns],
                       s[Axis::kHeight], s[Axis::kWidth], in[0], outputs[0].data<uint8_t>(), nullptr,
                       nullptr, nullptr},
                      ArenaExecutor());
    } else if constexpr (kOp.input_count == kAttention.input_count) {
      OutputMap y = output_map(outputs[0]);
      AttentionProblem problem = attention_problem(s, this->values()[0],
                                                   static_cast<Precision>(this->values()[1]));
      problem.q = in[0];
      problem.k = in[1];
      problem.v = in[2];
      problem.y = y.floats();
      multi_head_attention(problem, ArenaExecutor());
      y.finish(ArenaExecutor());
    } else {
      OutputMap y = output_map(outputs[0]);
      run(s, in.data(), y.floats(), outputs[1].data<float>());
      y.finish(ArenaExecutor());
    }
    return true;
  }

 private:
  static void run(const Sizes& s, const float* const* in, float* y, float* next) {
    if constexpr (kOp.input_count == kCausalConv.input_count) {
      windowed_causal_conv<float>({s.grid(), s[Axis::kBatch], s[Axis::kChannels], s[Axis::kTaps],
                                   in[0], in[1], in[2], in[3], y, next},
                                  ArenaExecutor());
    } else if constexpr (kOp.input_count == kSelectiveScan.input_count) {
      windowed_selective_scan<float>(
          {s.grid(), s[Axis::kBatch], s[Axis::kChannels], s[Axis::kStates], in[0], in[1], in[2],
           in[3], in[4], in[5], in[6], in[7], in[8], y, next, nullptr},
          ArenaExecutor());
    }
  }
};

// A whole layer, whose weights are packed at its first run; clones pack for themselves.
class LayerOp : public TableOp<kMambaLayer> {
 public:
  using TableOp::TableOp;

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return std::make_shared<LayerOp>(inputs, values());
  }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const Sizes s = open(outputs, inputs);
    InputMaps maps;
    const LayerPack& pack = packed(s, inputs);
    OutputMap y = output_map(outputs[0]);
    windowed_mamba_layer(
        {s.grid(), s[Axis::kBatch], nullptr, read(maps, inputs[0]), read(maps, inputs[12]),
         read(maps, inputs[13]), y.floats(), outputs[1].data<float>(), outputs[2].data<float>()},
        pack, ArenaExecutor());
    y.finish(ArenaExecutor());
    return true;
  }

 private:
  const LayerPack& packed(const Sizes& s, const ov::TensorVector& inputs) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (pack_ == nullptr) {
      InputMaps maps;
      std::array<const float*, kMambaLayer.input_count> w{};
      for (size_t i = 0; i < w.size(); ++i) {
        if (kMambaLayer.inputs[i].role == Role::kWeight) w[i] = read(maps, inputs[i]);
      }
      const LayerSizes sizes{s[Axis::kFeatures], s[Axis::kChannels], s[Axis::kTaps],
                             s[Axis::kStates], s[Axis::kRank]};
      pack_ = std::make_unique<LayerPack>(
          sizes, LayerWeights{w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11]},
          static_cast<Precision>(values()[6]));
    }
    return *pack_;
  }

  mutable std::mutex mutex_;
  mutable std::unique_ptr<LayerPack> pack_;
};

// The ONNX node's operands without the trailing indices, which only the lowering reads.
template <class Node, const Operator& kOp>
ov::OutputVector convert(const ov::frontend::NodeContext& node) {
  std::array<int64_t, kMaxAttributes> values{};
  for (size_t i = 0; i < kOp.attribute_count; ++i) {
    values[i] = node.get_attribute<int64_t>(kOp.attributes[i].name);
  }
  ov::OutputVector inputs;
  for (size_t i = 0; i < kOp.input_count; ++i) inputs.push_back(node.get_input(static_cast<int>(i)));
  return std::make_shared<Node>(inputs, values)->outputs();
}

template <class Node, const Operator& kOp>
void add(std::vector<ov::Extension::Ptr>& extensions) {
  extensions.push_back(std::make_shared<ov::OpExtension<Node>>());
  extensions.push_back(std::make_shared<ov::frontend::onnx::ConversionExtension>(
      kOp.name, "streamseg", ov::frontend::CreatorFunction(convert<Node, kOp>)));
}

std::vector<ov::Extension::Ptr> make_extensions() {
  std::vector<ov::Extension::Ptr> extensions;
  add<PlainOp<kCausalConv>, kCausalConv>(extensions);
  add<PlainOp<kSelectiveScan>, kSelectiveScan>(extensions);
  add<PlainOp<kUpsampleArgmax>, kUpsampleArgmax>(extensions);
  add<PlainOp<kAttention>, kAttention>(extensions);
  add<LayerOp, kMambaLayer>(extensions);
  return extensions;
}

}  // namespace
}  // namespace streamseg::ov_shell

OPENVINO_CREATE_EXTENSIONS(streamseg::ov_shell::make_extensions())
