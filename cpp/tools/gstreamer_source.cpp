// Files, addresses, cameras and pipelines through GStreamer.
#include <gst/app/gstappsink.h>
#include <gst/gst.h>
#include <gst/video/video.h>

#include <algorithm>

#include "frame_source.h"

namespace streamseg {
namespace {

bool starts_with(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

// The pipeline before the sink. The location is set as a property, so it needs no escaping.
struct Front {
  std::string description;
  const char* property = nullptr;
  bool live = false;
};

Front front_of(const std::string& source) {
  if (source.find(" ! ") != std::string::npos) return {source, nullptr, false};
  if (starts_with(source, "/dev/video")) return {"v4l2src name=source ! decodebin", "device", true};
  if (source.find("://") != std::string::npos) return {"uridecodebin name=source", "uri", !starts_with(source, "file:")};
  return {"filesrc name=source ! decodebin", "location", false};
}

class GStreamerSource : public FrameSource {
 public:
  explicit GStreamerSource(const std::string& source) : name_(source) {
    gst_init(nullptr, nullptr);
    const Front front = front_of(source);
    live_ = front.live;
    // If steps are slower than a camera, its oldest frame is dropped; a file waits.
    const std::string sink = std::string(" ! videoconvert ! video/x-raw,format=RGB ! appsink name=frames sync=false ") +
                             (front.live ? "max-buffers=1 drop=true" : "max-buffers=4");
    GError* error = nullptr;
    pipeline_ = gst_parse_launch((front.description + sink).c_str(), &error);
    if (error != nullptr) {
      const std::string reason = error->message;
      g_error_free(error);
      release();
      throw SourceError("cannot make a pipeline of " + source + ": " + reason);
    }
    if (front.property != nullptr) {
      GstElement* element = gst_bin_get_by_name(GST_BIN(pipeline_), "source");
      g_object_set(element, front.property, source.c_str(), nullptr);
      gst_object_unref(element);
    }
    sink_ = gst_bin_get_by_name(GST_BIN(pipeline_), "frames");
    gst_element_set_state(pipeline_, GST_STATE_PLAYING);
  }
  ~GStreamerSource() override { release(); }
  GStreamerSource(const GStreamerSource&) = delete;
  GStreamerSource& operator=(const GStreamerSource&) = delete;

  bool next(streamseg_frame* frame, bool* begins) override {
    forget_frame();
    while ((sample_ = gst_app_sink_try_pull_sample(GST_APP_SINK(sink_), 100 * GST_MSECOND)) == nullptr) {
      throw_error();
      if (gst_app_sink_is_eos(GST_APP_SINK(sink_))) return false;
    }
    GstVideoInfo info;
    GstBuffer* buffer = gst_sample_get_buffer(sample_);
    if (!gst_video_info_from_caps(&info, gst_sample_get_caps(sample_)) ||
        !gst_video_frame_map(&picture_, &info, buffer, GST_MAP_READ)) {
      throw SourceError(name_ + ": a frame cannot be read");
    }
    mapped_ = true;
    const int height = GST_VIDEO_FRAME_HEIGHT(&picture_), width = GST_VIDEO_FRAME_WIDTH(&picture_);
    // The first buffer is marked as a discontinuity too.
    *begins = count_ > 0 && (GST_BUFFER_IS_DISCONT(buffer) || height != height_ || width != width_ || is_gap(buffer));
    height_ = height, width_ = width;
    ++count_;
    note_time(buffer);
    *frame = {static_cast<const uint8_t*>(GST_VIDEO_FRAME_PLANE_DATA(&picture_, 0)), height, width,
              GST_VIDEO_FRAME_PLANE_STRIDE(&picture_, 0), STREAMSEG_RGB};
    return true;
  }

  std::string doubt() const override {
    const double slack = std::max(0.1, 2 * frame_length_);
    if (length_ <= 0 || time_ + slack >= length_) return "";
    return name_ + " ends after " + std::to_string(time_) + " s, and its length is " + std::to_string(length_) +
           " s: frames may be missing";
  }

 private:
  static double seconds(GstClockTime time) { return static_cast<double>(time) / static_cast<double>(GST_SECOND); }

  // A second or more without a picture, unless frames are usually that far apart. Frames that a
  // slow model skips do not count as missing.
  bool is_gap(const GstBuffer* buffer) const {
    if (live_ || !GST_BUFFER_PTS_IS_VALID(buffer)) return false;
    return seconds(GST_BUFFER_PTS(buffer)) - time_ >= std::max(1.0, 3 * frame_length_);
  }

  // Decoders drop data that they cannot decode, some of them without a message.
  void note_time(const GstBuffer* buffer) {
    gint64 length = 0;
    if (gst_element_query_duration(pipeline_, GST_FORMAT_TIME, &length) && length > 0) length_ = seconds(length);
    if (GST_BUFFER_DURATION_IS_VALID(buffer)) frame_length_ = seconds(GST_BUFFER_DURATION(buffer));
    if (GST_BUFFER_PTS_IS_VALID(buffer)) time_ = seconds(GST_BUFFER_PTS(buffer)) + frame_length_;
  }

  void throw_error() {
    GstBus* bus = gst_element_get_bus(pipeline_);
    GstMessage* message = gst_bus_pop_filtered(bus, GST_MESSAGE_ERROR);
    gst_object_unref(bus);
    if (message == nullptr) return;
    GError* error = nullptr;
    gst_message_parse_error(message, &error, nullptr);
    const std::string reason = error->message;
    g_error_free(error);
    gst_message_unref(message);
    throw SourceError(name_ + (count_ > 0 ? " fails after frame " + std::to_string(count_) : " does not open") + ": " +
                      reason);
  }

  void forget_frame() {
    if (mapped_) gst_video_frame_unmap(&picture_);
    mapped_ = false;
    if (sample_ != nullptr) gst_sample_unref(sample_);
    sample_ = nullptr;
  }

  void release() {
    forget_frame();
    if (sink_ != nullptr) gst_object_unref(sink_);
    if (pipeline_ != nullptr) {
      gst_element_set_state(pipeline_, GST_STATE_NULL);
      gst_object_unref(pipeline_);
    }
    sink_ = pipeline_ = nullptr;
  }

  std::string name_;
  GstElement* pipeline_ = nullptr;
  GstElement* sink_ = nullptr;
  GstSample* sample_ = nullptr;
  GstVideoFrame picture_;
  bool mapped_ = false, live_ = false;
  int height_ = 0, width_ = 0;
  uint64_t count_ = 0;
  double time_ = 0, frame_length_ = 0, length_ = 0;  // seconds
};

}  // namespace

std::unique_ptr<FrameSource> open_video(const std::string& source) { return std::make_unique<GStreamerSource>(source); }

}  // namespace streamseg
