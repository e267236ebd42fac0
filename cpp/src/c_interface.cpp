// Implements streamseg.h: checks arguments and turns exceptions into statuses.
#include <cstring>
#include <new>

#include "failure.h"
#include "stream.h"
#include "streamseg/streamseg.h"

struct streamseg_stream {
  std::unique_ptr<streamseg::core::Stream> stream;
};

namespace {

thread_local std::string message;

void require(bool holds, const char* text) {
  if (!holds) throw streamseg::core::Failure(STREAMSEG_INVALID_ARGUMENT, text);
}

template <class Work>
streamseg_status guarded(const Work& work) {
  try {
    message.clear();
    work();
    return STREAMSEG_OK;
  } catch (const streamseg::core::Failure& failure) {
    message = failure.what();
    return failure.status;
  } catch (const std::bad_alloc&) {
    message = "out of memory";
    return STREAMSEG_NO_MEMORY;
  } catch (const std::exception& error) {
    message = error.what();
    return STREAMSEG_BACKEND_FAILED;
  }
}

void check_frame(const streamseg_frame& frame, const uint8_t* labels, size_t stride) {
  require(frame.data != nullptr && labels != nullptr, "the frame or the labels are NULL");
  require(frame.height > 0 && frame.width > 0 && frame.height <= 1 << 16 && frame.width <= 1 << 16,
          "the frame's size is outside 1 to 65536");
  require(frame.format >= STREAMSEG_RGB && frame.format <= STREAMSEG_GRAY, "the frame's format is unknown");
  static const ptrdiff_t bytes[] = {3, 3, 4, 4, 1};
  const ptrdiff_t row = bytes[frame.format] * frame.width;
  require(frame.stride >= row || frame.stride <= -row, "the frame's stride is shorter than a row");
  require(stride >= static_cast<size_t>(frame.width), "the labels' stride is shorter than a row");
}

}  // namespace

const char* streamseg_message(void) { return message.c_str(); }

const char* streamseg_version(void) { return STREAMSEG_VERSION; }

streamseg_status streamseg_open(const char* bundle, const streamseg_options* options, streamseg_stream** stream) {
  return guarded([&] {
    require(bundle != nullptr && stream != nullptr, "the bundle's path or the place for the stream is NULL");
    *stream = nullptr;
    const streamseg_options chosen = options == nullptr ? streamseg_options{} : *options;
    require(chosen.threads >= 0, "the number of threads is negative");
    auto network = std::make_shared<const streamseg::core::Network>(bundle, chosen);
    auto made = std::make_unique<streamseg::core::Stream>(std::move(network));
    *stream = new streamseg_stream{std::move(made)};
  });
}

streamseg_status streamseg_sibling(const streamseg_stream* stream, streamseg_stream** sibling) {
  return guarded([&] {
    require(stream != nullptr && sibling != nullptr, "a stream is NULL");
    *sibling = new streamseg_stream{std::make_unique<streamseg::core::Stream>(stream->stream->network())};
  });
}

streamseg_status streamseg_step(streamseg_stream* stream, const streamseg_frame* frame, uint8_t* labels,
                                size_t labels_stride) {
  return guarded([&] {
    require(stream != nullptr && frame != nullptr, "the stream or the frame is NULL");
    check_frame(*frame, labels, labels_stride);
    stream->stream->step(*frame, labels, labels_stride);
  });
}

streamseg_status streamseg_reset(streamseg_stream* stream) {
  return guarded([&] {
    require(stream != nullptr, "the stream is NULL");
    stream->stream->reset();
  });
}

uint64_t streamseg_steps(const streamseg_stream* stream) { return stream == nullptr ? 0 : stream->stream->steps(); }

size_t streamseg_snapshot_size(const streamseg_stream* stream) {
  return stream == nullptr ? 0 : stream->stream->snapshot_size();
}

streamseg_status streamseg_snapshot(const streamseg_stream* stream, void* snapshot, size_t size) {
  return guarded([&] {
    require(stream != nullptr && snapshot != nullptr, "the stream or the snapshot is NULL");
    require(size == stream->stream->snapshot_size(), "the snapshot's size is not streamseg_snapshot_size");
    stream->stream->snapshot(static_cast<uint8_t*>(snapshot));
  });
}

streamseg_status streamseg_restore(streamseg_stream* stream, const void* snapshot, size_t size) {
  return guarded([&] {
    require(stream != nullptr && snapshot != nullptr, "the stream or the snapshot is NULL");
    stream->stream->restore(static_cast<const uint8_t*>(snapshot), size);
  });
}

streamseg_status streamseg_give(streamseg_stream* stream, const char* name, const void* values, size_t size) {
  return guarded([&] {
    require(stream != nullptr && name != nullptr && values != nullptr, "an argument is NULL");
    stream->stream->give(name, values, size);
  });
}

void streamseg_model_size(const streamseg_stream* stream, int* height, int* width) {
  if (height != nullptr) *height = stream == nullptr ? 0 : stream->stream->network()->manifest().height;
  if (width != nullptr) *width = stream == nullptr ? 0 : stream->stream->network()->manifest().width;
}

int streamseg_class_count(const streamseg_stream* stream) {
  return stream == nullptr ? 0 : static_cast<int>(stream->stream->network()->manifest().classes.size());
}

const char* streamseg_class_name(const streamseg_stream* stream, int id) {
  if (id < 0 || id >= streamseg_class_count(stream)) return nullptr;
  return stream->stream->network()->manifest().classes[static_cast<size_t>(id)].name.c_str();
}

void streamseg_class_color(const streamseg_stream* stream, int id, uint8_t rgb[3]) {
  std::memset(rgb, 0, 3);
  if (id < 0 || id >= streamseg_class_count(stream)) return;
  std::memcpy(rgb, stream->stream->network()->manifest().classes[static_cast<size_t>(id)].color, 3);
}

void streamseg_close(streamseg_stream* stream) { delete stream; }
