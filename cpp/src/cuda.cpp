#include "cuda.h"

namespace streamseg::core {
namespace {

using Pointer = unsigned long long;  // CUdeviceptr

constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*

Pointer address(const void* data) { return reinterpret_cast<Pointer>(data); }

}  // namespace

template <class... Arguments>
void CudaMemory::call(const char* function, Arguments... arguments) const {
  const int result = driver_.find<int(Arguments...)>(function)(arguments...);
  if (result == 0) return;
  const char* reason = nullptr;
  driver_.find<int(int, const char**)>("cuGetErrorString")(result, &reason);
  throw Failure(STREAMSEG_BACKEND_FAILED, std::string("CUDA's ") + function + " failed: " +
                                              (reason == nullptr ? std::to_string(result) : reason));
}

CudaMemory::CudaMemory() : driver_("libcuda.so.1", "the NVIDIA driver") {
  call("cuInit", 0u);
  call("cuDeviceGet", &device_, 0);
  call("cuDevicePrimaryCtxRetain", &context_, device_);
  enter();
}

CudaMemory::~CudaMemory() {
  if (context_ != nullptr) driver_.find<int(int)>("cuDevicePrimaryCtxRelease_v2")(device_);
}

void CudaMemory::enter() { call("cuCtxSetCurrent", context_); }

void* CudaMemory::allocate(size_t bytes) {
  Pointer data = 0;
  enter();
  call("cuMemAlloc_v2", &data, bytes);
  clear(reinterpret_cast<void*>(data), bytes);
  return reinterpret_cast<void*>(data);
}

void CudaMemory::release(void* data) noexcept {
  driver_.find<int(void*)>("cuCtxSetCurrent")(context_);
  driver_.find<int(Pointer)>("cuMemFree_v2")(address(data));
}

void CudaMemory::upload(void* to, const void* from, size_t bytes) {
  enter();
  call("cuMemcpyHtoD_v2", address(to), from, bytes);
}

void CudaMemory::download(void* to, const void* from, size_t bytes) {
  enter();
  call("cuMemcpyDtoH_v2", to, address(from), bytes);
}

void CudaMemory::clear(void* data, size_t bytes) {
  enter();
  call("cuMemsetD8_v2", address(data), static_cast<unsigned char>(0), bytes);
  call("cuCtxSynchronize");  // a memset returns before it has finished
}

std::string CudaMemory::name() const {
  char name[256] = {};
  call("cuDeviceGetName", &name[0], static_cast<int>(sizeof name - 1), device_);
  return name;
}

std::string CudaMemory::capability() const {
  int major = 0, minor = 0;
  call("cuDeviceGetAttribute", &major, kMajor, device_);
  call("cuDeviceGetAttribute", &minor, kMinor, device_);
  return std::to_string(major) + "." + std::to_string(minor);
}

std::string CudaMemory::driver() const {
  int version = 0;
  call("cuDriverGetVersion", &version);
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

void* CudaMemory::new_stream() {
  void* stream = nullptr;
  enter();
  call("cuStreamCreate", &stream, 1u);  // CU_STREAM_NON_BLOCKING
  return stream;
}

void CudaMemory::synchronize(void* stream) { call("cuStreamSynchronize", stream); }

void CudaMemory::release_stream(void* stream) noexcept { driver_.find<int(void*)>("cuStreamDestroy_v2")(stream); }

}  // namespace streamseg::core
