#include <cstdio>
#include <vector>

#include "frame_source.h"

namespace streamseg {
namespace {

class RawSource : public FrameSource {
 public:
  RawSource(int height, int width, streamseg_format format) : height_(height), width_(width), format_(format) {
    static const size_t bytes[] = {3, 3, 4, 4, 1};
    row_ = static_cast<size_t>(width) * bytes[format];
    frame_.resize(row_ * static_cast<size_t>(height));
  }
  bool next(streamseg_frame* frame, bool* begins) override {
    const size_t got = std::fread(frame_.data(), 1, frame_.size(), stdin);
    if (got == 0) return false;
    if (got != frame_.size()) {
      throw SourceError("the last frame is cut off: " + std::to_string(got) + " of " +
                        std::to_string(frame_.size()) + " bytes");
    }
    *frame = {frame_.data(), height_, width_, static_cast<ptrdiff_t>(row_), format_};
    *begins = false;
    return true;
  }

 private:
  int height_, width_;
  streamseg_format format_;
  size_t row_;
  std::vector<uint8_t> frame_;
};

}  // namespace

std::unique_ptr<FrameSource> open_raw(int height, int width, streamseg_format format) {
  return std::make_unique<RawSource>(height, width, format);
}

#ifndef STREAMSEG_HAS_GSTREAMER
std::unique_ptr<FrameSource> open_video(const std::string& source) {
  throw SourceError("cannot open " + source + ": this streamseg-run was built without GStreamer. Build it with " +
                    "-DSTREAMSEG_GSTREAMER=ON, or pipe raw frames and name their --size");
}
#endif

}  // namespace streamseg
