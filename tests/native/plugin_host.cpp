// Drives one TensorRT plugin as TensorRT does, with its headers alone: library, creator, types,
// formats, shapes, serialise and recreate, enqueue. Reads what to do from standard input, one item
// a line, and exits 1 with a message at the first thing that is not as the contract says.
//
//   library PATH
//   op NAME
//   attribute NAME VALUE
//   input TYPE FILE D0 D1 ...      TYPE: half, float or int32; FILE: raw bytes
//   output TYPE FILE D0 D1 ...     the expected type and shape; FILE is written
//   refuse                         expect createPlugin to return null, and stop
//
// Compiled with STREAMSEG_HOST_CUDA tensors live on the GPU; without, on the CPU, for the twin.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#if defined(STREAMSEG_HOST_CUDA)
#include <cuda_runtime_api.h>
#endif

using namespace nvinfer1;

namespace {

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "plugin_host: %s\n", what.c_str());
  std::exit(1);
}

class Constant final : public IDimensionExpr, public apiv::VDimensionExpr {
 public:
  explicit Constant(int64_t value) : value_(value) { IDimensionExpr::mImpl = this; }
  bool isConstant() const override { return true; }
  int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t value_;
};

class Builder final : public IExprBuilder, public apiv::VExprBuilder {
 public:
  Builder() { IExprBuilder::mImpl = this; }
  IDimensionExpr const* constant(int64_t value) override {
    kept_.push_back(std::make_unique<Constant>(value));
    return kept_.back().get();
  }
  IDimensionExpr const* operation(DimensionOperation, IDimensionExpr const&,
                                  IDimensionExpr const&) override {
    return nullptr;
  }
  IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&,
                                          IDimensionExpr const&) override {
    return nullptr;
  }

 private:
  std::vector<std::unique_ptr<Constant>> kept_;
};

struct Tensor {
  DataType type;
  std::string file;
  Dims dims;
  std::vector<char> bytes;
  void* data = nullptr;
};

Tensor parse_tensor(std::istringstream& line) {
  Tensor tensor{};
  std::string type;
  line >> type >> tensor.file;
  tensor.type = type == "half"    ? DataType::kHALF
                : type == "float" ? DataType::kFLOAT
                                  : DataType::kINT32;
  size_t size = tensor.type == DataType::kHALF ? 2 : 4;
  for (int64_t extent; line >> extent; size *= static_cast<size_t>(extent)) {
    tensor.dims.d[tensor.dims.nbDims++] = extent;
  }
  tensor.bytes.resize(size);
  return tensor;
}

void to_device(Tensor& tensor) {
#if defined(STREAMSEG_HOST_CUDA)
  require(cudaMalloc(&tensor.data, tensor.bytes.size()) == cudaSuccess, "cudaMalloc failed");
  require(cudaMemcpy(tensor.data, tensor.bytes.data(), tensor.bytes.size(),
                     cudaMemcpyHostToDevice) == cudaSuccess,
          "upload failed");
#else
  tensor.data = tensor.bytes.data();
#endif
}

void from_device(Tensor& tensor) {
#if defined(STREAMSEG_HOST_CUDA)
  require(cudaMemcpy(tensor.bytes.data(), tensor.data, tensor.bytes.size(),
                     cudaMemcpyDeviceToHost) == cudaSuccess,
          "running or download failed");
#else
  (void)tensor;
#endif
}

struct Request {
  std::string library;
  std::string op;
  std::vector<std::pair<std::string, int64_t>> attributes;
  std::vector<Tensor> inputs;
  std::vector<Tensor> outputs;
  bool refuse = false;
};

Request read_request() {
  Request request;
  for (std::string text; std::getline(std::cin, text);) {
    std::istringstream line(text);
    std::string kind;
    line >> kind;
    if (kind == "library") line >> request.library;
    if (kind == "op") line >> request.op;
    if (kind == "refuse") request.refuse = true;
    if (kind == "attribute") {
      request.attributes.emplace_back();
      line >> request.attributes.back().first >> request.attributes.back().second;
    }
    if (kind == "input") {
      Tensor tensor = parse_tensor(line);
      std::ifstream file(tensor.file, std::ios::binary);
      const std::vector<char> content{std::istreambuf_iterator<char>(file), {}};
      require(content.size() == tensor.bytes.size(), tensor.file + " has the wrong size");
      tensor.bytes = content;
      request.inputs.push_back(std::move(tensor));
    }
    if (kind == "output") request.outputs.push_back(parse_tensor(line));
  }
  return request;
}

IPluginCreatorV3One* find_creator(const Request& request) {
  void* library = dlopen(request.library.c_str(), RTLD_NOW | RTLD_LOCAL);
  require(library != nullptr, library == nullptr ? dlerror() : "");
  using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
  const auto get = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
  require(get != nullptr, "no getCreators");
  require(dlsym(library, "setLoggerFinder") != nullptr, "no setLoggerFinder");
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = get(count);
  require(count == 3, "expected three creators");
  for (int32_t i = 0; i < count; ++i) {
    require(std::strcmp(creators[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") == 0,
            "a creator is no IPluginCreatorV3One");
    auto* creator = static_cast<IPluginCreatorV3One*>(creators[i]);
    require(std::string(creator->getPluginNamespace()) == "streamseg", "namespace");
    require(std::string(creator->getPluginVersion()) == "1", "version");
    if (request.op == creator->getPluginName()) return creator;
  }
  require(false, "no creator of " + request.op);
  return nullptr;
}

template <class Capability>
Capability* capability(IPluginV3* plugin, PluginCapabilityType type) {
  auto* found = static_cast<Capability*>(plugin->getCapabilityInterface(type));
  require(found != nullptr, "a capability is missing");
  return found;
}

DynamicPluginTensorDesc describe(const Tensor& tensor) {
  DynamicPluginTensorDesc desc{};
  desc.desc.dims = desc.min = desc.max = desc.opt = tensor.dims;
  desc.desc.type = tensor.type;
  desc.desc.format = TensorFormat::kLINEAR;
  return desc;
}

void check_build(IPluginV3* plugin, const Request& request) {
  auto* build = capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
  const auto inputs = static_cast<int32_t>(request.inputs.size());
  const auto outputs = static_cast<int32_t>(request.outputs.size());
  require(build->getNbOutputs() == outputs, "number of outputs");

  std::vector<DataType> in_types;
  for (const auto& tensor : request.inputs) in_types.push_back(tensor.type);
  std::vector<DataType> out_types(request.outputs.size(), DataType::kBOOL);
  require(build->getOutputDataTypes(out_types.data(), outputs, in_types.data(), inputs) == 0,
          "output types refused");
  for (int32_t i = 0; i < outputs; ++i) {
    require(out_types[i] == request.outputs[i].type, "type of output " + std::to_string(i));
  }
  in_types.back() = DataType::kINT32;
  require(build->getOutputDataTypes(out_types.data(), outputs, in_types.data(), inputs) != 0,
          "an int32 input was accepted");
  require(build->getOutputDataTypes(out_types.data(), outputs, in_types.data(), inputs - 1) != 0,
          "too few inputs were accepted");

  std::vector<DynamicPluginTensorDesc> all;
  for (const auto& tensor : request.inputs) all.push_back(describe(tensor));
  for (const auto& tensor : request.outputs) all.push_back(describe(tensor));
  for (int32_t i = 0; i < inputs + outputs; ++i) {
    const std::string where = " at position " + std::to_string(i);
    require(build->supportsFormatCombination(i, all.data(), inputs, outputs),
            "the plain format is refused" + where);
    const PluginTensorDesc kept = all[i].desc;
    all[i].desc.format = TensorFormat::kCHW32;
    require(!build->supportsFormatCombination(i, all.data(), inputs, outputs),
            "a vector format is accepted" + where);
    all[i].desc = kept;
    all[i].desc.type = DataType::kINT8;
    require(!build->supportsFormatCombination(i, all.data(), inputs, outputs),
            "int8 is accepted" + where);
    all[i].desc = kept;
  }
  require(build->configurePlugin(all.data(), inputs, all.data() + inputs, outputs) == 0,
          "configurePlugin refused");

  Builder builder;
  std::vector<DimsExprs> in_shapes(request.inputs.size());
  for (int32_t i = 0; i < inputs; ++i) {
    in_shapes[i].nbDims = request.inputs[i].dims.nbDims;
    for (int32_t d = 0; d < in_shapes[i].nbDims; ++d) {
      in_shapes[i].d[d] = static_cast<IExprBuilder&>(builder).constant(request.inputs[i].dims.d[d]);
    }
  }
  std::vector<DimsExprs> out_shapes(request.outputs.size());
  require(build->getOutputShapes(in_shapes.data(), inputs, nullptr, 0, out_shapes.data(), outputs,
                                 builder) == 0,
          "output shapes refused");
  for (int32_t i = 0; i < outputs; ++i) {
    const Dims& wanted = request.outputs[i].dims;
    require(out_shapes[i].nbDims == wanted.nbDims, "rank of output " + std::to_string(i));
    for (int32_t d = 0; d < wanted.nbDims; ++d) {
      require(out_shapes[i].d[d] != nullptr &&
                  out_shapes[i].d[d]->getConstantValue() == wanted.d[d],
              "shape of output " + std::to_string(i));
    }
  }
  require(build->getWorkspaceSize(all.data(), inputs, all.data() + inputs, outputs) == 0,
          "asks for workspace");
  all[0].desc.dims.d[1] += 1;
  if (request.op != "UpsampleArgmax") {
    require(build->configurePlugin(all.data(), inputs, all.data() + inputs, outputs) != 0,
            "a map of another size was accepted");
  }
}

void enqueue(IPluginV3* plugin, Request& request) {
  auto* runtime = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
  std::vector<PluginTensorDesc> in_desc;
  std::vector<PluginTensorDesc> out_desc;
  std::vector<const void*> in_data;
  std::vector<void*> out_data;
  for (auto& tensor : request.inputs) {
    to_device(tensor);
    in_desc.push_back(describe(tensor).desc);
    in_data.push_back(tensor.data);
  }
  for (auto& tensor : request.outputs) {
    to_device(tensor);
    out_desc.push_back(describe(tensor).desc);
    out_data.push_back(tensor.data);
  }
  const auto inputs = static_cast<int32_t>(in_desc.size());
  const auto outputs = static_cast<int32_t>(out_desc.size());
  require(runtime->onShapeChange(in_desc.data(), inputs, out_desc.data(), outputs) == 0,
          "onShapeChange refused");
  require(runtime->enqueue(in_desc.data(), out_desc.data(), in_data.data(), out_data.data(),
                           nullptr, nullptr) == 0,
          "enqueue failed");
  for (auto& tensor : request.outputs) {
    from_device(tensor);
    std::ofstream(tensor.file, std::ios::binary)
        .write(tensor.bytes.data(), static_cast<std::streamsize>(tensor.bytes.size()));
  }
}

}  // namespace

int main() {
  Request request = read_request();
  IPluginCreatorV3One* creator = find_creator(request);
  std::vector<PluginField> fields;
  for (const auto& [name, value] : request.attributes) {
    fields.emplace_back(name.c_str(), &value, PluginFieldType::kINT64, 1);
  }
  const PluginFieldCollection given{static_cast<int32_t>(fields.size()), fields.data()};
  std::unique_ptr<IPluginV3> made(creator->createPlugin("node", &given, TensorRTPhase::kBUILD));
  if (request.refuse) {
    require(made == nullptr, "createPlugin accepted what it should refuse");
    return 0;
  }
  require(made != nullptr, "createPlugin returned null");
  require(creator->getFieldNames()->nbFields == given.nbFields, "number of declared attributes");

  std::unique_ptr<IPluginV3> copy(made->clone());
  made.reset();  // a clone must not lean on its original
  auto* core = capability<IPluginV3OneCore>(copy.get(), PluginCapabilityType::kCORE);
  require(request.op == core->getPluginName(), "name of the clone");
  check_build(copy.get(), request);

  auto* runtime = capability<IPluginV3OneRuntime>(copy.get(), PluginCapabilityType::kRUNTIME);
  const PluginFieldCollection* stored = runtime->getFieldsToSerialize();
  require(stored != nullptr && stored->nbFields == given.nbFields, "number of serialised fields");
  std::unique_ptr<IPluginV3> again(
      creator->createPlugin("node", stored, TensorRTPhase::kRUNTIME));
  require(again != nullptr, "recreating from serialised fields failed");
  copy.reset();
  auto* recreated = capability<IPluginV3OneRuntime>(again.get(), PluginCapabilityType::kRUNTIME);
  std::unique_ptr<IPluginV3> attached(recreated->attachToContext(nullptr));
  require(attached != nullptr, "attachToContext returned null");
  again.reset();
  enqueue(attached.get(), request);
  return 0;
}
