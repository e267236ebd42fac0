#include "fit.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace streamseg::core {
namespace {

int bytes_of(streamseg_format format) {
  return format == STREAMSEG_GRAY ? 1 : format == STREAMSEG_RGB || format == STREAMSEG_BGR ? 3 : 4;
}

// Offsets of red, green and blue within a pixel.
void channels_of(streamseg_format format, int (&place)[3]) {
  const bool blue_first = format == STREAMSEG_BGR || format == STREAMSEG_BGRA;
  const bool gray = format == STREAMSEG_GRAY;
  place[0] = gray ? 0 : blue_first ? 2 : 0;
  place[1] = gray ? 0 : 1;
  place[2] = gray ? 0 : blue_first ? 0 : 2;
}

}  // namespace

Region place_frame(int height, int width, int model_height, int model_width, bool letterbox) {
  if (!letterbox) return {0, model_height, 0, model_width};
  const double scale = std::min(static_cast<double>(model_height) / height,
                                static_cast<double>(model_width) / width);
  // nearbyint rounds halves to even.
  const int h = std::min(model_height, std::max(1, static_cast<int>(std::nearbyint(height * scale))));
  const int w = std::min(model_width, std::max(1, static_cast<int>(std::nearbyint(width * scale))));
  const int top = (model_height - h) / 2, left = (model_width - w) / 2;
  return {top, top + h, left, left + w};
}

std::vector<int> nearest_indices(int source, int target) {
  std::vector<int> found(static_cast<size_t>(target));
  for (int64_t i = 0; i < target; ++i) {
    found[static_cast<size_t>(i)] = static_cast<int>((2 * i + 1) * source / (2 * int64_t{target}));
  }
  return found;
}

Fitter::Fitter(const streamseg_frame& frame, int model_height, int model_width, bool letterbox,
               const uint8_t fill[3])
    : height_(frame.height), width_(frame.width), model_height_(model_height),
      model_width_(model_width), format_(frame.format),
      region_(place_frame(frame.height, frame.width, model_height, model_width, letterbox)),
      rows_(nearest_indices(region_.height(), frame.height)),
      columns_(nearest_indices(region_.width(), frame.width)) {
  std::memcpy(fill_, fill, 3);
  const double shrink = std::max(static_cast<double>(height_) / region_.height(),
                                 static_cast<double>(width_) / region_.width());
  row_taps_ = taps(height_, region_.height(), shrink > 2);
  column_taps_ = taps(width_, region_.width(), shrink > 2);
  line_.resize(static_cast<size_t>(width_) * 3);
  sum_.resize(static_cast<size_t>(width_) * 3);
}

bool Fitter::fits(const streamseg_frame& frame) const {
  return frame.height == height_ && frame.width == width_ && frame.format == format_;
}

// Bilinear with half-pixel centres, or the mean over the source area of each target pixel.
std::vector<std::vector<Fitter::Tap>> Fitter::taps(int source, int target, bool area) {
  std::vector<std::vector<Tap>> found(static_cast<size_t>(target));
  const double scale = static_cast<double>(source) / target;
  for (int i = 0; i < target; ++i) {
    auto& list = found[static_cast<size_t>(i)];
    if (area && scale > 1) {
      const double begin = i * scale, end = begin + scale;
      const int last = std::min(source - 1, static_cast<int>(std::ceil(end - 1e-9)) - 1);
      for (int s = static_cast<int>(begin); s <= last; ++s) {
        const double part = std::min(end, s + 1.0) - std::max(begin, static_cast<double>(s));
        list.push_back({s, static_cast<float>(part / scale)});
      }
      continue;
    }
    const double centre = std::max(0.0, (i + 0.5) * scale - 0.5);
    const int low = std::min(static_cast<int>(centre), source - 1);
    const auto fraction = static_cast<float>(std::min(centre - low, 1.0));
    list.push_back({low, 1 - fraction});
    if (fraction > 0 && low + 1 < source) list.push_back({low + 1, fraction});
    if (list.size() == 1) list[0].weight = 1;
  }
  return found;
}

void Fitter::read_row(const streamseg_frame& frame, int y, float* out) const {
  int place[3];
  channels_of(format_, place);
  const int step = bytes_of(format_);
  const uint8_t* row = frame.data + static_cast<ptrdiff_t>(y) * frame.stride;
  for (int x = 0; x < width_; ++x, row += step) {
    for (int c = 0; c < 3; ++c) *out++ = row[place[c]];
  }
}

void Fitter::copy_row(const streamseg_frame& frame, int y, uint8_t* out) const {
  const uint8_t* row = frame.data + static_cast<ptrdiff_t>(y) * frame.stride;
  if (format_ == STREAMSEG_RGB) {
    std::memcpy(out, row, static_cast<size_t>(width_) * 3);
    return;
  }
  int place[3];
  channels_of(format_, place);
  const int step = bytes_of(format_);
  for (int x = 0; x < width_; ++x, row += step, out += 3) {
    out[0] = row[place[0]];
    out[1] = row[place[1]];
    out[2] = row[place[2]];
  }
}

void Fitter::fit(const streamseg_frame& frame, uint8_t* out) {
  const size_t pitch = static_cast<size_t>(model_width_) * 3;
  if (region_.height() != model_height_ || region_.width() != model_width_) {
    for (size_t i = 0; i < static_cast<size_t>(model_height_) * pitch; ++i) out[i] = fill_[i % 3];
  }
  for (int y = 0; exact() && y < height_; ++y) {
    copy_row(frame, y, out + static_cast<size_t>(region_.top + y) * pitch + static_cast<size_t>(region_.left) * 3);
  }
  for (int y = 0; !exact() && y < region_.height(); ++y) {
    std::fill(sum_.begin(), sum_.end(), 0.0f);
    for (const Tap& tap : row_taps_[static_cast<size_t>(y)]) {
      read_row(frame, tap.source, line_.data());
      for (size_t i = 0; i < sum_.size(); ++i) sum_[i] += tap.weight * line_[i];
    }
    uint8_t* target = out + static_cast<size_t>(region_.top + y) * pitch + static_cast<size_t>(region_.left) * 3;
    for (int x = 0; x < region_.width(); ++x) {
      for (int c = 0; c < 3; ++c) {
        float value = 0;
        for (const Tap& tap : column_taps_[static_cast<size_t>(x)]) {
          value += tap.weight * sum_[static_cast<size_t>(tap.source) * 3 + static_cast<size_t>(c)];
        }
        *target++ = static_cast<uint8_t>(std::lround(std::min(255.0f, std::max(0.0f, value))));
      }
    }
  }
}

void Fitter::restore(const uint8_t* labels, uint8_t* out, size_t stride) const {
  for (int y = 0; y < height_; ++y) {
    const uint8_t* row = labels +
                         static_cast<size_t>(region_.top + rows_[static_cast<size_t>(y)]) *
                             static_cast<size_t>(model_width_) +
                         region_.left;
    uint8_t* target = out + static_cast<size_t>(y) * stride;
    if (exact()) {
      std::memcpy(target, row, static_cast<size_t>(width_));
      continue;
    }
    for (int x = 0; x < width_; ++x) target[x] = row[columns_[static_cast<size_t>(x)]];
  }
}

}  // namespace streamseg::core
