// Replaces libcuda.so.1: the entries that the library calls, with stricter checks than the driver.
//
// Memory initially contains arbitrary bytes. A call without a current context, an address outside
// the device, a copy past the end of a block, and a block that is freed twice are errors.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "device.h"

namespace {

using Pointer = unsigned long long;

constexpr int kInvalidValue = 1, kInvalidContext = 201;

std::mutex mutex;
std::map<uint64_t, uint64_t> blocks;  // address and bytes
int the_context;
thread_local void* current = nullptr;
int retained = 0;

bool ready() { return current == &the_context; }

// Device memory still in use when the program ends was leaked.
struct AtExit {
  ~AtExit() {
    if (blocks.empty() && retained == 0) return;
    std::fputs("stand-in: device memory or its context was not released\n", stderr);
    std::_Exit(99);
  }
} at_exit;

}  // namespace

extern "C" {

int stand_in_holds(uint64_t address, uint64_t bytes) {
  const std::lock_guard<std::mutex> guard(mutex);
  auto next = blocks.upper_bound(address);
  if (!stand_in::is_device(address) || next == blocks.begin()) return 0;
  --next;
  return address + bytes <= next->first + next->second;
}

int cuInit(unsigned flags) { return flags == 0 ? 0 : kInvalidValue; }
int cuDriverGetVersion(int* version) {
  *version = 12060;
  return 0;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = 0;
  return ordinal == 0 ? 0 : kInvalidValue;
}
int cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, "stand-in", static_cast<size_t>(length));
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 8 : 7;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
  *context = &the_context;
  ++retained;
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) {
  --retained;
  return 0;
}
int cuCtxSetCurrent(void* context) {
  current = context;
  return context == &the_context ? 0 : kInvalidContext;
}
int cuCtxSynchronize() { return ready() ? 0 : kInvalidContext; }
int cuGetErrorString(int result, const char** text) {
  *text = result == kInvalidContext ? "invalid device context" : "invalid argument";
  return 0;
}

int cuMemAlloc_v2(Pointer* data, size_t bytes) {
  if (!ready()) return kInvalidContext;
  if (bytes == 0) return kInvalidValue;
  void* block = std::malloc(bytes);
  std::memset(block, 0x7F, bytes);  // as float32 a very large number
  *data = reinterpret_cast<uint64_t>(block) | stand_in::kDevice;
  const std::lock_guard<std::mutex> guard(mutex);
  blocks[*data] = bytes;
  return 0;
}
int cuMemFree_v2(Pointer data) {
  if (!ready()) return kInvalidContext;
  const std::lock_guard<std::mutex> guard(mutex);
  if (blocks.erase(data) == 0) return kInvalidValue;
  std::free(reinterpret_cast<void*>(stand_in::to_host(data)));
  return 0;
}
int cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
  if (!ready()) return kInvalidContext;
  if (!stand_in_holds(to, bytes) || stand_in::is_device(reinterpret_cast<uint64_t>(from))) return kInvalidValue;
  std::memcpy(reinterpret_cast<void*>(stand_in::to_host(to)), from, bytes);
  return 0;
}
int cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
  if (!ready()) return kInvalidContext;
  if (!stand_in_holds(from, bytes) || stand_in::is_device(reinterpret_cast<uint64_t>(to))) return kInvalidValue;
  std::memcpy(to, reinterpret_cast<void*>(stand_in::to_host(from)), bytes);
  return 0;
}
int cuMemsetD8_v2(Pointer to, unsigned char value, size_t bytes) {
  if (!ready()) return kInvalidContext;
  if (!stand_in_holds(to, bytes)) return kInvalidValue;
  std::memset(reinterpret_cast<void*>(stand_in::to_host(to)), value, bytes);
  return 0;
}
}
