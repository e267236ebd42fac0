// GStreamer element `streamsegfilter`: draws labels over the picture and keeps the state.
//
//   gst-launch-1.0 videotestsrc ! videoconvert ! streamsegfilter bundle=out/street ! autovideosink
#include <gst/gst.h>
#include <gst/video/gstvideofilter.h>
#include <gst/video/video.h>

#include <vector>

#include "streamseg/streamseg.h"

#define PACKAGE "streamseg"

G_BEGIN_DECLS
#define STREAMSEG_TYPE_FILTER (streamseg_filter_get_type())
G_DECLARE_FINAL_TYPE(StreamsegFilter, streamseg_filter, STREAMSEG, FILTER, GstVideoFilter)
G_END_DECLS

struct _StreamsegFilter {
  GstVideoFilter parent;
  gchar* bundle;
  gchar* onnxruntime;
  gchar* operators;
  gchar* backend;
  gchar* engines;
  gchar* tensorrt;
  gint threads;
  gdouble opacity;
  gboolean labels_only;
  streamseg_stream* stream;
  std::vector<uint8_t>* labels;
  gboolean started;
  gint height, width;
};

G_DEFINE_TYPE(StreamsegFilter, streamseg_filter, GST_TYPE_VIDEO_FILTER)

GST_DEBUG_CATEGORY_STATIC(streamseg_debug);
#define GST_CAT_DEFAULT streamseg_debug

enum { kBundle = 1, kOnnxRuntime, kOperators, kBackend, kEngines, kTensorRt, kThreads, kOpacity, kLabels };

static const char* const kCaps = GST_VIDEO_CAPS_MAKE("{ RGB, BGR, RGBA, BGRA, RGBx, BGRx, GRAY8 }");

static streamseg_format format_of(GstVideoFormat format) {
  switch (format) {
    case GST_VIDEO_FORMAT_RGB: return STREAMSEG_RGB;
    case GST_VIDEO_FORMAT_BGR: return STREAMSEG_BGR;
    case GST_VIDEO_FORMAT_RGBA:
    case GST_VIDEO_FORMAT_RGBx: return STREAMSEG_RGBA;
    case GST_VIDEO_FORMAT_BGRA:
    case GST_VIDEO_FORMAT_BGRx: return STREAMSEG_BGRA;
    default: return STREAMSEG_GRAY;
  }
}

static gboolean streamseg_filter_start(GstBaseTransform* base) {
  auto* self = STREAMSEG_FILTER(base);
  if (self->bundle == nullptr) {
    GST_ELEMENT_ERROR(self, RESOURCE, SETTINGS, ("no bundle was named"), ("set the property bundle"));
    return FALSE;
  }
  const streamseg_options options = {self->onnxruntime, self->operators, self->threads,
                                     self->backend,     self->engines,   self->tensorrt};
  if (streamseg_open(self->bundle, &options, &self->stream) != STREAMSEG_OK) {
    GST_ELEMENT_ERROR(self, RESOURCE, OPEN_READ, ("%s", streamseg_message()), (nullptr));
    return FALSE;
  }
  self->started = FALSE;
  return TRUE;
}

static gboolean streamseg_filter_stop(GstBaseTransform* base) {
  auto* self = STREAMSEG_FILTER(base);
  streamseg_close(self->stream);
  self->stream = nullptr;
  return TRUE;
}

static gboolean streamseg_filter_set_info(GstVideoFilter* filter, GstCaps*, GstVideoInfo* in, GstCaps*, GstVideoInfo*) {
  auto* self = STREAMSEG_FILTER(filter);
  const gint height = GST_VIDEO_INFO_HEIGHT(in), width = GST_VIDEO_INFO_WIDTH(in);
  if (self->started && (height != self->height || width != self->width)) {
    GST_INFO_OBJECT(self, "reset: pictures are %dx%d instead of %dx%d", height, width, self->height, self->width);
    streamseg_reset(self->stream);
  }
  self->height = height;
  self->width = width;
  return TRUE;
}

static void paint(StreamsegFilter* self, GstVideoFrame* frame) {
  const int height = GST_VIDEO_FRAME_HEIGHT(frame), width = GST_VIDEO_FRAME_WIDTH(frame);
  const int step = GST_VIDEO_FRAME_COMP_PSTRIDE(frame, 0);
  const bool gray = GST_VIDEO_FRAME_FORMAT(frame) == GST_VIDEO_FORMAT_GRAY8;
  const int offsets[3] = {static_cast<int>(GST_VIDEO_FRAME_COMP_POFFSET(frame, 0)),
                          gray ? 0 : static_cast<int>(GST_VIDEO_FRAME_COMP_POFFSET(frame, 1)),
                          gray ? 0 : static_cast<int>(GST_VIDEO_FRAME_COMP_POFFSET(frame, 2))};
  auto* data = static_cast<uint8_t*>(GST_VIDEO_FRAME_PLANE_DATA(frame, 0));
  const int classes = streamseg_class_count(self->stream);
  for (int y = 0; y < height; ++y, data += GST_VIDEO_FRAME_PLANE_STRIDE(frame, 0)) {
    const uint8_t* label = self->labels->data() + static_cast<size_t>(y) * static_cast<size_t>(width);
    for (int x = 0; x < width; ++x) {
      uint8_t* pixel = data + x * step;
      if (self->labels_only || gray) {
        for (const int offset : offsets) pixel[offset] = label[x];
        continue;
      }
      if (label[x] >= classes) continue;
      uint8_t color[3];
      streamseg_class_color(self->stream, label[x], color);
      for (int c = 0; c < 3; ++c) {
        uint8_t& value = pixel[offsets[c]];
        value = static_cast<uint8_t>(value + (color[c] - value) * self->opacity);
      }
    }
  }
}

static GstFlowReturn streamseg_filter_transform(GstVideoFilter* filter, GstVideoFrame* frame) {
  auto* self = STREAMSEG_FILTER(filter);
  // The first buffer is marked as a discontinuity too.
  if (self->started && GST_BUFFER_IS_DISCONT(frame->buffer)) {
    GST_INFO_OBJECT(self, "reset: the stream has a discontinuity");
    streamseg_reset(self->stream);
  }
  self->started = TRUE;
  const int height = GST_VIDEO_FRAME_HEIGHT(frame), width = GST_VIDEO_FRAME_WIDTH(frame);
  self->labels->resize(static_cast<size_t>(height) * static_cast<size_t>(width));
  const streamseg_frame picture = {static_cast<uint8_t*>(GST_VIDEO_FRAME_PLANE_DATA(frame, 0)), height, width,
                                   GST_VIDEO_FRAME_PLANE_STRIDE(frame, 0), format_of(GST_VIDEO_FRAME_FORMAT(frame))};
  if (streamseg_step(self->stream, &picture, self->labels->data(), static_cast<size_t>(width)) != STREAMSEG_OK) {
    GST_ELEMENT_ERROR(self, STREAM, FAILED, ("%s", streamseg_message()), (nullptr));
    return GST_FLOW_ERROR;
  }
  paint(self, frame);
  return GST_FLOW_OK;
}

static void replace_text(gchar** place, const GValue* value) {
  g_free(*place);
  *place = g_value_dup_string(value);
}

static void streamseg_filter_set_property(GObject* object, guint id, const GValue* value, GParamSpec* spec) {
  auto* self = STREAMSEG_FILTER(object);
  switch (id) {
    case kBundle: replace_text(&self->bundle, value); break;
    case kOnnxRuntime: replace_text(&self->onnxruntime, value); break;
    case kOperators: replace_text(&self->operators, value); break;
    case kBackend: replace_text(&self->backend, value); break;
    case kEngines: replace_text(&self->engines, value); break;
    case kTensorRt: replace_text(&self->tensorrt, value); break;
    case kThreads: self->threads = g_value_get_int(value); break;
    case kOpacity: self->opacity = g_value_get_double(value); break;
    case kLabels: self->labels_only = g_value_get_boolean(value); break;
    default: G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
  }
}

static void streamseg_filter_get_property(GObject* object, guint id, GValue* value, GParamSpec* spec) {
  auto* self = STREAMSEG_FILTER(object);
  switch (id) {
    case kBundle: g_value_set_string(value, self->bundle); break;
    case kOnnxRuntime: g_value_set_string(value, self->onnxruntime); break;
    case kOperators: g_value_set_string(value, self->operators); break;
    case kBackend: g_value_set_string(value, self->backend); break;
    case kEngines: g_value_set_string(value, self->engines); break;
    case kTensorRt: g_value_set_string(value, self->tensorrt); break;
    case kThreads: g_value_set_int(value, self->threads); break;
    case kOpacity: g_value_set_double(value, self->opacity); break;
    case kLabels: g_value_set_boolean(value, self->labels_only); break;
    default: G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
  }
}

static void streamseg_filter_finalize(GObject* object) {
  auto* self = STREAMSEG_FILTER(object);
  streamseg_close(self->stream);
  delete self->labels;
  g_free(self->bundle);
  g_free(self->onnxruntime);
  g_free(self->operators);
  g_free(self->backend);
  g_free(self->engines);
  g_free(self->tensorrt);
  G_OBJECT_CLASS(streamseg_filter_parent_class)->finalize(object);
}

static void streamseg_filter_init(StreamsegFilter* self) {
  self->opacity = 0.5;
  self->labels = new std::vector<uint8_t>;
}

static void streamseg_filter_class_init(StreamsegFilterClass* type) {
  auto* object = G_OBJECT_CLASS(type);
  auto* element = GST_ELEMENT_CLASS(type);
  object->set_property = streamseg_filter_set_property;
  object->get_property = streamseg_filter_get_property;
  object->finalize = streamseg_filter_finalize;
  const auto flags = static_cast<GParamFlags>(G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS);
  const auto text = [&](guint id, const char* name, const char* about) {
    g_object_class_install_property(object, id, g_param_spec_string(name, name, about, nullptr, flags));
  };
  text(kBundle, "bundle", "Bundle folder");
  text(kOnnxRuntime, "onnxruntime", "Path of libonnxruntime.so");
  text(kOperators, "operators", "Path of libstreamseg_ops.so, or of the backend's operators");
  text(kBackend, "backend", "onnxruntime (the default), cuda or tensorrt");
  text(kEngines, "engines", "Folder of TensorRT engines");
  text(kTensorRt, "tensorrt", "Path of libnvinfer.so");
  g_object_class_install_property(
      object, kThreads, g_param_spec_int("threads", "threads", "Threads of one step; 0: automatic", 0, 1024, 0, flags));
  g_object_class_install_property(
      object, kOpacity, g_param_spec_double("opacity", "opacity", "Opacity of the labels", 0, 1, 0.5, flags));
  g_object_class_install_property(
      object, kLabels, g_param_spec_boolean("labels", "labels", "Write class ids instead of the picture", FALSE, flags));
  gst_element_class_set_static_metadata(element, "Stateful video segmentation", "Filter/Effect/Video",
                                        "Segments video with a streamseg bundle", "The streamseg developers");
  GstCaps* caps = gst_caps_from_string(kCaps);
  for (const auto direction : {GST_PAD_SINK, GST_PAD_SRC}) {
    gst_element_class_add_pad_template(
        element, gst_pad_template_new(direction == GST_PAD_SINK ? "sink" : "src", direction, GST_PAD_ALWAYS, caps));
  }
  gst_caps_unref(caps);
  GST_BASE_TRANSFORM_CLASS(type)->start = streamseg_filter_start;
  GST_BASE_TRANSFORM_CLASS(type)->stop = streamseg_filter_stop;
  GST_VIDEO_FILTER_CLASS(type)->set_info = streamseg_filter_set_info;
  GST_VIDEO_FILTER_CLASS(type)->transform_frame_ip = streamseg_filter_transform;
}

static gboolean plugin_init(GstPlugin* plugin) {
  GST_DEBUG_CATEGORY_INIT(streamseg_debug, "streamseg", 0, "streamseg");
  return gst_element_register(plugin, "streamsegfilter", GST_RANK_NONE, STREAMSEG_TYPE_FILTER);
}

GST_PLUGIN_DEFINE(GST_VERSION_MAJOR, GST_VERSION_MINOR, streamseg, "Stateful video segmentation", plugin_init,
                  STREAMSEG_VERSION, "Apache-2.0", "streamseg", "https://github.com/streamseg/streamseg")
