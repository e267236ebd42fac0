#include "backend.h"

#include "failure.h"

namespace streamseg::core {

std::unique_ptr<Backend> make_backend(const streamseg_options& options, const Manifest& manifest) {
  const std::string name = options.backend == nullptr ? "onnxruntime" : options.backend;
  if (name == "onnxruntime") return make_onnxruntime(options);
  if (name == "cuda") return make_onnxruntime_cuda(options, manifest);
  if (name == "tensorrt") return make_tensorrt(options);
  throw Failure(STREAMSEG_INVALID_ARGUMENT, "backend '" + name + "' is unknown; expected onnxruntime, cuda or tensorrt");
}

#ifndef STREAMSEG_HAS_TENSORRT
std::unique_ptr<Backend> make_tensorrt(const streamseg_options&) {
  throw Failure(STREAMSEG_BACKEND_FAILED,
                "this library was built without TensorRT; build it with -DSTREAMSEG_TENSORRT_INCLUDE=FOLDER of NvInfer.h");
}
#endif

}  // namespace streamseg::core
