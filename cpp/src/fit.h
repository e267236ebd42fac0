// Resizes frames to the model's size, and labels back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "streamseg/streamseg.h"

namespace streamseg::core {

// The picture is in rows top..bottom and columns left..right of the model's frame.
struct Region {
  int top, bottom, left, right;
  int height() const { return bottom - top; }
  int width() const { return right - left; }
};

Region place_frame(int height, int width, int model_height, int model_width, bool letterbox);

// The source sample at the centre of each of `target` samples: floor((i + 0.5) * source / target).
std::vector<int> nearest_indices(int source, int target);

// Fits frames of one size and format; allocates only in the constructor.
class Fitter {
 public:
  Fitter(const streamseg_frame& frame, int model_height, int model_width, bool letterbox,
         const uint8_t fill[3]);
  bool fits(const streamseg_frame& frame) const;
  // Writes [model height, model width, 3] RGB.
  void fit(const streamseg_frame& frame, uint8_t* out);
  // Resizes labels from the model's size to the frame's.
  void restore(const uint8_t* labels, uint8_t* out, size_t stride) const;

 private:
  struct Tap {  // a source pixel and its weight
    int source;
    float weight;
  };
  static std::vector<std::vector<Tap>> taps(int source, int target, bool area);
  // The picture already has the right size: bytes are copied.
  bool exact() const { return height_ == region_.height() && width_ == region_.width(); }
  void copy_row(const streamseg_frame& frame, int y, uint8_t* out) const;
  void read_row(const streamseg_frame& frame, int y, float* out) const;

  int height_, width_, model_height_, model_width_;
  streamseg_format format_;
  Region region_;
  uint8_t fill_[3];
  std::vector<int> rows_, columns_;
  std::vector<std::vector<Tap>> row_taps_, column_taps_;
  std::vector<float> line_, sum_;
};

}  // namespace streamseg::core
