// The frame sources of streamseg-run.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

#include "streamseg/streamseg.h"

namespace streamseg {

// A source that cannot be opened or fails later; what() has its name and the reason.
class SourceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class FrameSource {
 public:
  virtual ~FrameSource() = default;
  // The next frame, valid until the next call; false at the end. Sets `begins` if the frame does
  // not continue the previous one.
  virtual bool next(streamseg_frame* frame, bool* begins) = 0;
  // After the end: why frames may be missing; empty if there is no sign of that.
  virtual std::string doubt() const { return ""; }
};

// Raw frames of one size from standard input.
std::unique_ptr<FrameSource> open_raw(int height, int width, streamseg_format format);

// A video file, an address with ://, a camera /dev/videoN or a GStreamer pipeline with " ! ".
std::unique_ptr<FrameSource> open_video(const std::string& source);

}  // namespace streamseg
