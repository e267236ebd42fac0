// The largest sizes, the same for every interface and every device.
#pragma once

#include <cstdint>

namespace streamseg {

constexpr int64_t kMaxExtent = 1 << 20;  // of a map's side, a window's, channels
constexpr int64_t kMaxPixels = 32767;    // of a side of scores and labels
constexpr int64_t kMaxFeatures = 1 << 14;  // of a fused layer
constexpr int64_t kMaxTaps = 16;
constexpr int64_t kMaxStates = 64;

}  // namespace streamseg
