/* A device for tests without a GPU: its addresses are none that the host can touch. */
#pragma once

#include <cstdint>

namespace stand_in {

// Bits that make an address invalid for the processor, so that code of the host that follows a
// device pointer ends by a signal.
constexpr uint64_t kDevice = 0xA5C0ull << 48;

inline bool is_device(uint64_t address) { return (address & (0xFFFFull << 48)) == kDevice; }
inline uint64_t to_host(uint64_t address) { return address & ~(0xFFFFull << 48); }

}  // namespace stand_in

// Whether the bytes lie inside one live block of device memory.
extern "C" int stand_in_holds(uint64_t address, uint64_t bytes);
