// SHA-256 (FIPS 180-4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace streamseg::core {

// In the manifest's notation: "sha256:" and 64 hex digits. `portable` avoids the processor's SHA
// instructions.
std::string digest(const uint8_t* data, size_t size, bool portable = false);

}  // namespace streamseg::core
