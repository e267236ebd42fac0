// The logic of the node without ROS: checks, resets, labels and areas.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "streamseg/streamseg.hpp"

namespace streamseg_ros {

struct Settings {
  std::string bundle;
  std::string onnxruntime;  // path of libonnxruntime.so; empty: the loader's search path
  std::string operators;    // path of the backend's operators; empty: the graph's own lowering runs
  std::string backend;      // onnxruntime (empty: the same), cuda or tensorrt
  std::string engines;      // folder of TensorRT engines
  std::string tensorrt;     // path of libnvinfer.so; empty: the loader's search path
  int threads = 0;          // of one step; 0: automatic
  double reset_gap = 1.0;   // the state is reset after this many seconds without an image; 0: never
};

// A view of a sensor_msgs/Image.
struct Picture {
  const std::vector<uint8_t>& data;
  uint32_t height;
  uint32_t width;
  uint32_t step;  // bytes per row
  std::string encoding;
  int64_t stamp;  // nanoseconds; 0: unknown
  std::string frame_id;
};

// An image that cannot be segmented; what() has the reason. The state is unchanged.
class InvalidPicture : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Segmenter {
 public:
  // Throws streamseg::Error.
  explicit Segmenter(const Settings& settings);

  // Fills `labels` with height * width class ids; 255: none.
  // Returns why the state was reset before this image; empty if it was not reset.
  // Throws InvalidPicture, or streamseg::Error if the step failed; the state is then empty.
  std::string segment(const Picture& picture, std::vector<uint8_t>* labels);

  // The next image is the first of a new video.
  void reset();

  // Share of the last image's pixels for each class; the sum is less than 1 if labels are 255.
  const std::vector<double>& areas() const { return areas_; }
  std::vector<std::string> class_names() const;

 private:
  std::string reason_to_reset(const Picture& picture) const;
  void measure(const std::vector<uint8_t>& labels);

  streamseg::Stream stream_;
  double reset_gap_;
  std::vector<double> areas_;
  bool started_ = false;
  uint32_t height_ = 0, width_ = 0;
  int64_t stamp_ = 0;
  std::string frame_id_;
};

}  // namespace streamseg_ros
