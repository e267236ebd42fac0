// The operators as TensorRT plugins (IPluginV3, TensorRT 10.0 and newer), with the names and
// attributes of the ONNX nodes. TensorRT loads this library by path and asks it for its creators;
// nothing registers itself, and nothing here holds state between calls.
#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "cuda_api.h"
#include "cuda_sizes.h"

namespace streamseg::tensorrt {
namespace {

using namespace nvinfer1;

constexpr const char* kNamespace = "streamseg";
constexpr const char* kVersion = "1";

void report(const char* plugin, const std::string& message) noexcept {
  std::fprintf(stderr, "streamseg: TensorRT plugin %s: %s\n", plugin, message.c_str());
}

// How one operator is launched; all else follows from the table.
template <const Operator& kOp>
struct Launch;

template <>
struct Launch<kCausalConv> {
  static int run(const Sizes& s, bool half, void const* const* in, void* const* out,
                 cudaStream_t stream) {
    const auto f = [&](int i) { return static_cast<const float*>(in[i]); };
    const streamseg_cuda_sizes sizes = cuda_sizes(s, Axis::kTaps);
    return streamseg_cuda_windowed_causal_conv(&sizes, half, in[0], f(1), f(2), f(3), out[0],
                                               static_cast<float*>(out[1]), stream);
  }
};

template <>
struct Launch<kSelectiveScan> {
  static int run(const Sizes& s, bool half, void const* const* in, void* const* out,
                 cudaStream_t stream) {
    const auto f = [&](int i) { return static_cast<const float*>(in[i]); };
    const streamseg_cuda_sizes sizes = cuda_sizes(s, Axis::kStates);
    return streamseg_cuda_windowed_selective_scan(&sizes, half, in[0], in[1], f(2), f(3), in[4],
                                                  in[5], f(6), in[7], f(8), out[0],
                                                  static_cast<float*>(out[1]), stream);
  }
};

template <>
struct Launch<kUpsampleArgmax> {
  static int run(const Sizes& s, bool half, void const* const* in, void* const* out,
                 cudaStream_t stream) {
    return streamseg_cuda_upsample_argmax(in[0], half, s[Axis::kBatch], s[Axis::kClasses],
                                          s[Axis::kRows], s[Axis::kColumns], s[Axis::kHeight],
                                          s[Axis::kWidth], 1, out[0], stream);
  }
};

template <const Operator& kOp>
using Attributes = std::array<int32_t, kOp.attribute_count>;

// The sizes of a call, checked; sizes below 0 are not known yet. `dims` may be null.
template <const Operator& kOp>
Sizes check(const Attributes<kOp>& attributes, const Dims* dims) {
  std::array<int64_t, kOp.attribute_count> wide;
  std::copy(attributes.begin(), attributes.end(), wide.begin());
  Sizes sizes(kOp, wide.data());
  for (size_t i = 0; dims != nullptr && i < kOp.input_count; ++i) {
    sizes.take(kOp.inputs[i], dims[i].d, dims[i].nbDims);
  }
  return sizes;
}

// Runs `body`; an exception is reported and becomes `failed`.
template <class Result, class Body>
Result guarded(const char* plugin, Result failed, const Body& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    report(plugin, error.what());
    return failed;
  }
}

template <const Operator& kOp>
class Plugin final : public IPluginV3,
                     public IPluginV3OneCore,
                     public IPluginV3OneBuild,
                     public IPluginV3OneRuntime {
 public:
  static constexpr int32_t kInputs = static_cast<int32_t>(kOp.input_count);
  static constexpr int32_t kOutputs = static_cast<int32_t>(kOp.output_count);

  explicit Plugin(const Attributes<kOp>& attributes) : attributes_(attributes) {
    for (size_t i = 0; i < attributes_.size(); ++i) {
      fields_[i] = PluginField(kOp.attributes[i].name, &attributes_[i], PluginFieldType::kINT32, 1);
    }
    collection_.nbFields = static_cast<int32_t>(fields_.size());
    collection_.fields = fields_.data();
  }
  Plugin(const Plugin&) = delete;
  Plugin& operator=(const Plugin&) = delete;

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE:
        return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD:
        return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME:
        return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(attributes_); }
  const char* getPluginName() const noexcept override { return kOp.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  int32_t getNbOutputs() const noexcept override { return kOutputs; }

  int32_t configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                          const DynamicPluginTensorDesc*, int32_t outputs) noexcept override {
    std::array<Dims, kInputs> dims;
    if (!counts(inputs, outputs)) return -1;
    for (int32_t i = 0; i < kInputs; ++i) dims[i] = in[i].desc.dims;
    return check(dims.data());
  }

  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                 int32_t inputs, int32_t outputs) noexcept override {
    if (inputs != kInputs || outputs != kOutputs || position >= inputs + outputs) return false;
    const PluginTensorDesc& tensor = tensors[position].desc;
    const DataType map = tensors[0].desc.type;
    if (tensor.format != TensorFormat::kLINEAR) return false;
    if (map != DataType::kFLOAT && map != DataType::kHALF) return false;
    return tensor.type == type_at(position, map);
  }

  int32_t getOutputDataTypes(DataType* types, int32_t outputs, const DataType* in,
                             int32_t inputs) const noexcept override {
    if (!counts(inputs, outputs)) return -1;
    for (int32_t i = 0; i < kInputs; ++i) {
      if (in[i] != type_at(i, in[0]) || (in[0] != DataType::kFLOAT && in[0] != DataType::kHALF)) {
        report(kOp.name, "input " + std::to_string(i) + " has the wrong type: maps are float32 " +
                              "or float16, all alike; weights and state float32");
        return -1;
      }
    }
    for (int32_t i = 0; i < kOutputs; ++i) types[i] = type_at(kInputs + i, in[0]);
    return 0;
  }

  int32_t getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t,
                          DimsExprs* out, int32_t outputs,
                          IExprBuilder& builder) noexcept override {
    if (!counts(inputs, outputs)) return -1;
    if constexpr (kOp.windowed()) {
      out[0] = in[0];
      out[1] = in[kInputs - 1];
    } else {
      out[0].nbDims = 3;
      out[0].d[0] = in[0].d[0];
      out[0].d[1] = builder.constant(attributes_[0]);
      out[0].d[2] = builder.constant(attributes_[1]);
    }
    return 0;
  }

  int32_t onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc*,
                        int32_t outputs) noexcept override {
    std::array<Dims, kInputs> dims;
    if (!counts(inputs, outputs)) return -1;
    for (int32_t i = 0; i < kInputs; ++i) dims[i] = in[i].dims;
    return check(dims.data());
  }

  int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, void const* const* inputs,
                  void* const* outputs, void*, cudaStream_t stream) noexcept override {
    std::array<Dims, kInputs> dims;
    for (int32_t i = 0; i < kInputs; ++i) dims[i] = in[i].dims;
    const bool half = in[0].type == DataType::kHALF;
    return guarded<int32_t>(kOp.name, -1, [&] {
      const Sizes sizes = tensorrt::check<kOp>(attributes_, dims.data());
      if (Launch<kOp>::run(sizes, half, inputs, outputs, stream) == 0) return 0;
      report(kOp.name, streamseg_cuda_last_error());
      return -1;
    });
  }

  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &collection_; }

 private:
  static DataType type_at(int32_t position, DataType map) {
    const Operand& operand =
        position < kInputs ? kOp.inputs[position] : kOp.outputs[position - kInputs];
    if (operand.role == Role::kLabels) return DataType::kINT32;  // a plugin writes no uint8
    return operand.role == Role::kMap ? map : DataType::kFLOAT;
  }

  static bool counts(int32_t inputs, int32_t outputs) noexcept {
    if (inputs == kInputs && outputs == kOutputs) return true;
    report(kOp.name, "got " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) +
                          " outputs, expected " + std::to_string(kInputs) + " and " +
                          std::to_string(kOutputs) +
                          "; the graph for TensorRT must have its index inputs stripped");
    return false;
  }

  int32_t check(const Dims* dims) const noexcept {
    return guarded<int32_t>(kOp.name, -1, [&] {
      tensorrt::check<kOp>(attributes_, dims);
      return 0;
    });
  }

  Attributes<kOp> attributes_;
  std::array<PluginField, kOp.attribute_count> fields_;
  PluginFieldCollection collection_{};
};

template <const Operator& kOp>
class Creator final : public IPluginCreatorV3One {
 public:
  Creator() {
    for (size_t i = 0; i < fields_.size(); ++i) {
      fields_[i] = PluginField(kOp.attributes[i].name, nullptr, PluginFieldType::kINT32, 1);
    }
    collection_.nbFields = static_cast<int32_t>(fields_.size());
    collection_.fields = fields_.data();
  }

  const char* getPluginName() const noexcept override { return kOp.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  IPluginV3* createPlugin(const char*, const PluginFieldCollection* given,
                          TensorRTPhase) noexcept override {
    return guarded<IPluginV3*>(kOp.name, nullptr, [&]() -> IPluginV3* {
      Attributes<kOp> attributes{};
      for (size_t i = 0; i < attributes.size(); ++i) {
        attributes[i] = read(given, kOp.attributes[i].name);
      }
      check<kOp>(attributes, nullptr);
      return new (std::nothrow) Plugin<kOp>(attributes);
    });
  }

 private:
  // The parser hands out the type that getFieldNames asks for; callers by hand may use 64 bits.
  static int32_t read(const PluginFieldCollection* given, const std::string& name) {
    for (int32_t i = 0; given != nullptr && i < given->nbFields; ++i) {
      const PluginField& field = given->fields[i];
      if (field.name == nullptr || name != field.name) continue;
      if (field.data == nullptr || field.length != 1) {
        throw InvalidArgument("attribute " + name + " has " + std::to_string(field.length) +
                              " values, expected 1");
      }
      if (field.type == PluginFieldType::kINT32) return *static_cast<const int32_t*>(field.data);
      if (field.type == PluginFieldType::kINT64) {
        const int64_t wide = *static_cast<const int64_t*>(field.data);
        require_range(("attribute " + name).c_str(), wide, INT32_MIN, INT32_MAX);
        return static_cast<int32_t>(wide);
      }
      throw InvalidArgument("attribute " + name + " has the wrong type, expected an integer");
    }
    throw InvalidArgument("attribute " + name + " is missing");
  }

  std::array<PluginField, kOp.attribute_count> fields_;
  PluginFieldCollection collection_{};
};

}  // namespace
}  // namespace streamseg::tensorrt

extern "C" {

// TensorRT's plugin registry asks a library for these two by name.
STREAMSEG_CUDA_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using namespace streamseg;
  using namespace streamseg::tensorrt;
  static Creator<kCausalConv> conv;
  static Creator<kSelectiveScan> scan;
  static Creator<kUpsampleArgmax> argmax;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&conv, &scan, &argmax};
  count = 3;
  return creators;
}

STREAMSEG_CUDA_API void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

STREAMSEG_CUDA_API const char* streamseg_tensorrt_version(void) { return STREAMSEG_VERSION; }

}  // extern "C"
