// The operators as TensorRT plugins (IPluginV3, TensorRT 10.0 and newer), with the names and
// attributes of the ONNX nodes. TensorRT loads this library by path and asks it for its creators;
// nothing registers itself, and nothing here holds state between calls.
#include <NvInferRuntime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>

#include "cuda_api.h"

namespace streamseg::tensorrt {
namespace {

using namespace nvinfer1;

constexpr const char* kNamespace = "streamseg";
constexpr const char* kVersion = "1";

void report(const char* plugin, const std::string& message) noexcept {
  std::fprintf(stderr, "streamseg: TensorRT plugin %s: %s\n", plugin, message.c_str());
}

std::string text(const Dims& dims) {
  std::string out = "[";
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    out += (i > 0 ? ", " : "") + (dims.d[i] < 0 ? std::string("?") : std::to_string(dims.d[i]));
  }
  return out + "]";
}

// -1 on either side stands for any size.
bool fits(const Dims& dims, std::initializer_list<int64_t> wanted) {
  if (dims.nbDims != static_cast<int32_t>(wanted.size())) return false;
  const int64_t* size = wanted.begin();
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    if (dims.d[i] >= 0 && size[i] >= 0 && dims.d[i] != size[i]) return false;
  }
  return true;
}

Dims make_dims(std::initializer_list<int64_t> sizes) {
  Dims dims{};
  dims.nbDims = static_cast<int32_t>(sizes.size());
  int32_t i = 0;
  for (const int64_t size : sizes) dims.d[i++] = size;
  return dims;
}

// What one operator is: its sizes follow from attributes and input shapes, `run` launches it. An
// input is a map (float32 or float16, all alike) or a parameter (float32).
struct Conv {
  static constexpr const char* kName = "WindowedCausalConv";
  static constexpr std::array<const char*, 6> kAttributes = {
      "map_h", "map_w", "window_h", "window_w", "offset_h", "offset_w"};
  static constexpr std::array<bool, 4> kMapInput = {true, false, false, false};
  static constexpr std::array<DataType, 2> kOutput = {DataType::kHALF, DataType::kFLOAT};
  static constexpr int32_t kStateInput = 3;

  using Attributes = std::array<int32_t, 6>;

  static streamseg_cuda_sizes sizes(const Attributes& a, const Dims* in) {
    return {a[0], a[1], a[2], a[3], a[4], a[5], in[0].d[0], in[0].d[2], in[1].d[1]};
  }

  static std::string check(const Attributes& a, const Dims* in) {
    streamseg_cuda_sizes s{a[0], a[1], a[2], a[3], a[4], a[5], 1, 1, 1};
    int64_t cells = 0;
    if (streamseg_cuda_check_conv(&s, &cells) != 0) return streamseg_cuda_last_error();
    if (in == nullptr) return "";
    if (in[0].nbDims != 3 || in[1].nbDims != 2) return "x or weight has the wrong rank";
    const int64_t channels = in[0].d[2];
    const int64_t taps = in[1].d[1];
    const int64_t history = taps < 0 ? -1 : taps - 1;
    if (!fits(in[0], {-1, s.map_h * s.map_w, -1})) return "x " + text(in[0]) + " is no such map";
    if (!fits(in[1], {channels, -1})) return "weight " + text(in[1]) + " does not fit x";
    if (!fits(in[2], {channels})) return "bias " + text(in[2]) + " does not fit x";
    if (!fits(in[3], {in[0].d[0], cells, channels, history})) {
      return "state " + text(in[3]) + " is not [batch, " + std::to_string(cells) +
             ", channels, taps - 1]";
    }
    if (in[0].d[0] < 0 || channels < 0 || taps < 0) return "";
    s = sizes(a, in);
    return streamseg_cuda_check_conv(&s, &cells) != 0 ? streamseg_cuda_last_error() : "";
  }

  static int run(const Attributes& a, const Dims* dims, bool half, void const* const* in,
                 void* const* out, cudaStream_t stream) {
    const auto f = [&](int i) { return static_cast<const float*>(in[i]); };
    const streamseg_cuda_sizes s = sizes(a, dims);
    return streamseg_cuda_windowed_causal_conv(&s, half, in[0], f(1), f(2), f(3), out[0],
                                               static_cast<float*>(out[1]), stream);
  }
};

struct Scan {
  static constexpr const char* kName = "WindowedSelectiveScan";
  static constexpr std::array<const char*, 6> kAttributes = Conv::kAttributes;
  // u, dt, dt_bias, A, B, C, skip, z, state
  static constexpr std::array<bool, 9> kMapInput = {true, true,  false, false, true,
                                                    true, false, true,  false};
  static constexpr std::array<DataType, 2> kOutput = {DataType::kHALF, DataType::kFLOAT};
  static constexpr int32_t kStateInput = 8;

  using Attributes = std::array<int32_t, 6>;

  static streamseg_cuda_sizes sizes(const Attributes& a, const Dims* in) {
    return {a[0], a[1], a[2], a[3], a[4], a[5], in[0].d[0], in[0].d[2], in[3].d[1]};
  }

  static std::string check(const Attributes& a, const Dims* in) {
    streamseg_cuda_sizes s{a[0], a[1], a[2], a[3], a[4], a[5], 1, 1, 1};
    int64_t cells = 0;
    if (streamseg_cuda_check_scan(&s, &cells) != 0) return streamseg_cuda_last_error();
    if (in == nullptr) return "";
    if (in[0].nbDims != 3 || in[3].nbDims != 2) return "u or A has the wrong rank";
    const int64_t batch = in[0].d[0];
    const int64_t tokens = s.map_h * s.map_w;
    const int64_t channels = in[0].d[2];
    const int64_t states = in[3].d[1];
    const struct {
      const char* name;
      int32_t input;
      Dims wanted;
    } rules[] = {
        {"u", 0, make_dims({batch, tokens, channels})},
        {"dt", 1, make_dims({batch, tokens, channels})},
        {"dt_bias", 2, make_dims({channels})},
        {"A", 3, make_dims({channels, states})},
        {"B", 4, make_dims({batch, tokens, states})},
        {"C", 5, make_dims({batch, tokens, states})},
        {"skip", 6, make_dims({channels})},
        {"z", 7, make_dims({batch, tokens, channels})},
        {"state", 8, make_dims({batch, cells, channels, states})},
    };
    for (const auto& rule : rules) {
      bool same = in[rule.input].nbDims == rule.wanted.nbDims;
      for (int32_t i = 0; same && i < rule.wanted.nbDims; ++i) {
        const int64_t got = in[rule.input].d[i];
        same = got < 0 || rule.wanted.d[i] < 0 || got == rule.wanted.d[i];
      }
      if (!same) {
        return std::string(rule.name) + " has shape " + text(in[rule.input]) + ", expected " +
               text(rule.wanted);
      }
    }
    if (batch < 0 || channels < 0 || states < 0) return "";
    s = sizes(a, in);
    return streamseg_cuda_check_scan(&s, &cells) != 0 ? streamseg_cuda_last_error() : "";
  }

  static int run(const Attributes& a, const Dims* dims, bool half, void const* const* in,
                 void* const* out, cudaStream_t stream) {
    const auto f = [&](int i) { return static_cast<const float*>(in[i]); };
    const streamseg_cuda_sizes s = sizes(a, dims);
    return streamseg_cuda_windowed_selective_scan(&s, half, 0, in[0], in[1], f(2), f(3), in[4],
                                                  in[5], f(6), in[7], f(8), out[0],
                                                  static_cast<float*>(out[1]), stream);
  }
};

struct Argmax {
  static constexpr const char* kName = "UpsampleArgmax";
  static constexpr std::array<const char*, 2> kAttributes = {"height", "width"};
  static constexpr std::array<bool, 1> kMapInput = {true};
  static constexpr std::array<DataType, 1> kOutput = {DataType::kINT32};
  static constexpr int32_t kStateInput = -1;

  using Attributes = std::array<int32_t, 2>;

  static std::string check(const Attributes& a, const Dims* in) {
    if (a[0] < 1 || a[1] < 1 || a[0] > 32767 || a[1] > 32767) {
      return "height and width are " + std::to_string(a[0]) + " and " + std::to_string(a[1]) +
             ", expected 1 to 32767";
    }
    if (in == nullptr) return "";
    if (in[0].nbDims != 4) return "scores " + text(in[0]) + " are not [batch, classes, h, w]";
    if (in[0].d[1] > 255) return "there are " + std::to_string(in[0].d[1]) + " classes, at most 255";
    return "";
  }

  static int run(const Attributes& a, const Dims* dims, bool half, void const* const* in,
                 void* const* out, cudaStream_t stream) {
    const auto* d = dims[0].d;
    return streamseg_cuda_upsample_argmax(in[0], half, d[0], d[1], d[2], d[3], a[0], a[1], 1,
                                          out[0], stream);
  }
};

template <class Op>
class Plugin final : public IPluginV3,
                     public IPluginV3OneCore,
                     public IPluginV3OneBuild,
                     public IPluginV3OneRuntime {
 public:
  using Attributes = typename Op::Attributes;
  static constexpr int32_t kInputs = static_cast<int32_t>(Op::kMapInput.size());
  static constexpr int32_t kOutputs = static_cast<int32_t>(Op::kOutput.size());

  explicit Plugin(const Attributes& attributes) : attributes_(attributes) {
    for (size_t i = 0; i < attributes_.size(); ++i) {
      fields_[i] = PluginField(Op::kAttributes[i], &attributes_[i], PluginFieldType::kINT32, 1);
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
  const char* getPluginName() const noexcept override { return Op::kName; }
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
        report(Op::kName, "input " + std::to_string(i) + " has the wrong type: maps are float32 " +
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
    if constexpr (Op::kStateInput >= 0) {
      out[0] = in[0];
      out[1] = in[Op::kStateInput];
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
    if (Op::run(attributes_, dims.data(), half, inputs, outputs, stream) == 0) return 0;
    report(Op::kName, streamseg_cuda_last_error());
    return -1;
  }

  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &collection_; }

 private:
  static DataType type_at(int32_t position, DataType map) {
    if (position < kInputs) return Op::kMapInput[position] ? map : DataType::kFLOAT;
    const DataType output = Op::kOutput[position - kInputs];
    return output == DataType::kHALF ? map : output;  // kHALF marks a map
  }

  static bool counts(int32_t inputs, int32_t outputs) noexcept {
    if (inputs == kInputs && outputs == kOutputs) return true;
    report(Op::kName, "got " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) +
                          " outputs, expected " + std::to_string(kInputs) + " and " +
                          std::to_string(kOutputs) +
                          "; the graph for TensorRT must have its index inputs stripped");
    return false;
  }

  int32_t check(const Dims* dims) const noexcept {
    const std::string wrong = Op::check(attributes_, dims);
    if (wrong.empty()) return 0;
    report(Op::kName, wrong);
    return -1;
  }

  Attributes attributes_;
  std::array<PluginField, std::tuple_size<Attributes>::value> fields_;
  PluginFieldCollection collection_{};
};

template <class Op>
class Creator final : public IPluginCreatorV3One {
 public:
  Creator() {
    for (size_t i = 0; i < fields_.size(); ++i) {
      fields_[i] = PluginField(Op::kAttributes[i], nullptr, PluginFieldType::kINT32, 1);
    }
    collection_.nbFields = static_cast<int32_t>(fields_.size());
    collection_.fields = fields_.data();
  }

  const char* getPluginName() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  IPluginV3* createPlugin(const char*, const PluginFieldCollection* given,
                          TensorRTPhase) noexcept override {
    typename Op::Attributes attributes{};
    for (size_t i = 0; i < attributes.size(); ++i) {
      const std::string wrong = read(given, Op::kAttributes[i], &attributes[i]);
      if (!wrong.empty()) {
        report(Op::kName, wrong);
        return nullptr;
      }
    }
    const std::string wrong = Op::check(attributes, nullptr);
    if (!wrong.empty()) {
      report(Op::kName, wrong);
      return nullptr;
    }
    return new (std::nothrow) Plugin<Op>(attributes);
  }

 private:
  // The parser hands out the type that getFieldNames asks for; callers by hand may use 64 bits.
  static std::string read(const PluginFieldCollection* given, const char* name, int32_t* value) {
    for (int32_t i = 0; given != nullptr && i < given->nbFields; ++i) {
      const PluginField& field = given->fields[i];
      if (field.name == nullptr || std::strcmp(field.name, name) != 0) continue;
      if (field.data == nullptr || field.length != 1) {
        return std::string("attribute ") + name + " is not one number";
      }
      if (field.type == PluginFieldType::kINT32) {
        *value = *static_cast<const int32_t*>(field.data);
        return "";
      }
      if (field.type == PluginFieldType::kINT64) {
        const int64_t wide = *static_cast<const int64_t*>(field.data);
        *value = static_cast<int32_t>(wide);
        return *value == wide ? "" : std::string("attribute ") + name + " is too large";
      }
      return std::string("attribute ") + name + " is no integer";
    }
    return std::string("attribute ") + name + " is missing";
  }

  std::array<PluginField, std::tuple_size<typename Op::Attributes>::value> fields_;
  PluginFieldCollection collection_{};
};

}  // namespace
}  // namespace streamseg::tensorrt

extern "C" {

// TensorRT's plugin registry asks a library for these two by name.
STREAMSEG_CUDA_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using namespace streamseg::tensorrt;
  static Creator<Conv> conv;
  static Creator<Scan> scan;
  static Creator<Argmax> argmax;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&conv, &scan, &argmax};
  count = 3;
  return creators;
}

STREAMSEG_CUDA_API void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

STREAMSEG_CUDA_API const char* streamseg_tensorrt_version(void) { return STREAMSEG_VERSION; }

}  // extern "C"
