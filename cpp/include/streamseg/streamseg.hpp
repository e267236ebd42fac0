// A thin C++17 wrapper over streamseg.h: streams close themselves, errors are exceptions.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "streamseg.h"

namespace streamseg {

class Error : public std::runtime_error {
 public:
  Error(streamseg_status status, const char* message) : std::runtime_error(message), status_(status) {}
  streamseg_status status() const noexcept { return status_; }

 private:
  streamseg_status status_;
};

// One video through a bundle; streamseg.h describes each call.
class Stream {
 public:
  explicit Stream(const std::string& bundle, const streamseg_options& options = {}) {
    check(streamseg_open(bundle.c_str(), &options, &stream_));
  }
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { streamseg_close(stream_); }

  Stream sibling() const {
    streamseg_stream* found = nullptr;
    check(streamseg_sibling(stream_, &found));
    return Stream(found);
  }
  void step(const streamseg_frame& frame, uint8_t* labels, size_t stride) {
    check(streamseg_step(stream_, &frame, labels, stride));
  }
  // Labels of the frame's size, row by row.
  std::vector<uint8_t> step(const streamseg_frame& frame) {
    std::vector<uint8_t> labels(static_cast<size_t>(frame.height) * static_cast<size_t>(frame.width));
    step(frame, labels.data(), static_cast<size_t>(frame.width));
    return labels;
  }
  void reset() { check(streamseg_reset(stream_)); }
  uint64_t steps() const { return streamseg_steps(stream_); }
  std::vector<uint8_t> snapshot() const {
    std::vector<uint8_t> content(streamseg_snapshot_size(stream_));
    check(streamseg_snapshot(stream_, content.data(), content.size()));
    return content;
  }
  void restore(const std::vector<uint8_t>& content) {
    check(streamseg_restore(stream_, content.data(), content.size()));
  }
  streamseg_stream* get() const noexcept { return stream_; }

 private:
  explicit Stream(streamseg_stream* stream) : stream_(stream) {}
  static void check(streamseg_status status) {
    if (status != STREAMSEG_OK) throw Error(status, streamseg_message());
  }
  streamseg_stream* stream_ = nullptr;
};

}  // namespace streamseg
