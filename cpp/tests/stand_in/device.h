/* A device for tests without a GPU. The host cannot access its addresses. */
#pragma once

#include <cstdint>

namespace stand_in {

// Bits that make an address invalid for the processor, so host code that dereferences a device
// pointer ends with a signal.
constexpr uint64_t kDevice = 0xA5C0ull << 48;

inline bool is_device(uint64_t address) { return (address & (0xFFFFull << 48)) == kDevice; }
inline uint64_t to_host(uint64_t address) { return address & ~(0xFFFFull << 48); }

}  // namespace stand_in

// Whether the bytes lie inside one live block of device memory.
extern "C" int stand_in_holds(uint64_t address, uint64_t bytes);
