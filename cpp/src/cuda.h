// CUDA memory through the driver API, loaded at run time.
#pragma once

#include <string>

#include "backend.h"
#include "library.h"

namespace streamseg::core {

// Memory of the first device, in its primary context, which ONNX Runtime and TensorRT use too.
class CudaMemory : public Memory {
 public:
  // Throws Failure if there is no driver or no device.
  CudaMemory();
  ~CudaMemory() override;
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;

  void* allocate(size_t bytes) override;
  void release(void* data) noexcept override;
  void upload(void* to, const void* from, size_t bytes) override;
  void download(void* to, const void* from, size_t bytes) override;
  void clear(void* data, size_t bytes) override;

  // Makes the device's context current in the calling thread.
  void enter();
  std::string name() const;
  std::string capability() const;  // such as "8.7"
  std::string driver() const;      // CUDA version that the driver supports, such as "12.6"
  void* new_stream();
  void synchronize(void* stream);
  void release_stream(void* stream) noexcept;

 private:
  template <class... Arguments>
  void call(const char* function, Arguments... arguments) const;

  SharedLibrary driver_;
  int device_ = 0;
  void* context_ = nullptr;
};

}  // namespace streamseg::core
