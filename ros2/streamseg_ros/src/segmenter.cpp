#include "streamseg_ros/segmenter.hpp"

#include <array>
#include <map>
#include <utility>

namespace streamseg_ros {
namespace {

struct Layout {
  streamseg_format format;
  uint32_t bytes;
};

// Names from sensor_msgs/image_encodings.hpp.
Layout layout_of(const std::string& encoding) {
  static const std::map<std::string, Layout> layouts = {{"rgb8", {STREAMSEG_RGB, 3}},
                                                        {"bgr8", {STREAMSEG_BGR, 3}},
                                                        {"rgba8", {STREAMSEG_RGBA, 4}},
                                                        {"bgra8", {STREAMSEG_BGRA, 4}},
                                                        {"mono8", {STREAMSEG_GRAY, 1}}};
  const auto found = layouts.find(encoding);
  if (found != layouts.end()) return found->second;
  throw InvalidPicture("the image's encoding is '" + encoding +
                       "', expected rgb8, bgr8, rgba8, bgra8 or mono8; convert it, for example with image_proc");
}

void require_whole(const Picture& picture, uint32_t bytes) {
  const uint64_t row = uint64_t{picture.width} * bytes;
  const uint64_t whole = uint64_t{picture.step} * picture.height;
  if (picture.height == 0 || picture.width == 0) throw InvalidPicture("the image is empty");
  if (picture.step < row) {
    throw InvalidPicture("a row of the image is " + std::to_string(picture.step) + " bytes, expected at least " +
                         std::to_string(row));
  }
  if (picture.data.size() < whole) {
    throw InvalidPicture("the image holds " + std::to_string(picture.data.size()) + " bytes, expected " +
                         std::to_string(whole));
  }
}

streamseg_options options_of(const Settings& settings) {
  const auto or_null = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
  return {or_null(settings.onnxruntime), or_null(settings.operators), settings.threads,
          or_null(settings.backend),     or_null(settings.engines),   or_null(settings.tensorrt)};
}

}  // namespace

Segmenter::Segmenter(const Settings& settings)
    : stream_(settings.bundle, options_of(settings)),
      reset_gap_(settings.reset_gap),
      areas_(static_cast<size_t>(streamseg_class_count(stream_.get()))) {}

std::string Segmenter::segment(const Picture& picture, std::vector<uint8_t>* labels) {
  const Layout layout = layout_of(picture.encoding);
  require_whole(picture, layout.bytes);
  const std::string reason = reason_to_reset(picture);
  if (!reason.empty()) reset();
  labels->resize(size_t{picture.height} * picture.width);
  const streamseg_frame frame = {picture.data.data(), static_cast<int>(picture.height),
                                 static_cast<int>(picture.width), static_cast<ptrdiff_t>(picture.step), layout.format};
  try {
    stream_.step(frame, labels->data(), picture.width);
  } catch (const streamseg::Error&) {
    reset();
    throw;
  }
  started_ = true;
  height_ = picture.height;
  width_ = picture.width;
  stamp_ = picture.stamp;
  frame_id_ = picture.frame_id;
  measure(*labels);
  return reason;
}

std::string Segmenter::reason_to_reset(const Picture& picture) const {
  if (!started_) return "";
  if (picture.height != height_ || picture.width != width_) {
    return "the image's size changed from " + std::to_string(height_) + "x" + std::to_string(width_) + " to " +
           std::to_string(picture.height) + "x" + std::to_string(picture.width);
  }
  if (picture.frame_id != frame_id_) return "frame_id changed from '" + frame_id_ + "' to '" + picture.frame_id + "'";
  if (picture.stamp == 0 || stamp_ == 0) return "";
  const double gap = static_cast<double>(picture.stamp - stamp_) * 1e-9;
  if (gap < 0) return "time went back by " + std::to_string(-gap) + " s";
  if (reset_gap_ > 0 && gap >= reset_gap_) return std::to_string(gap) + " s without an image";
  return "";
}

void Segmenter::reset() {
  stream_.reset();
  started_ = false;
}

void Segmenter::measure(const std::vector<uint8_t>& labels) {
  std::array<size_t, 256> counts{};
  for (const uint8_t label : labels) ++counts[label];
  for (size_t i = 0; i < areas_.size(); ++i) {
    areas_[i] = static_cast<double>(counts[i]) / static_cast<double>(labels.size());
  }
}

std::vector<std::string> Segmenter::class_names() const {
  std::vector<std::string> names;
  for (int i = 0; i < streamseg_class_count(stream_.get()); ++i) {
    names.emplace_back(streamseg_class_name(stream_.get(), i));
  }
  return names;
}

}  // namespace streamseg_ros
