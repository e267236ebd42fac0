// TensorRT engines on disk, as `streamseg build --out FOLDER` writes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace streamseg::core {

// What an engine must match: the TensorRT, GPU and plugin library of this process.
struct EngineTarget {
  std::string version;     // of TensorRT, such as "10.14.1.48"
  std::string gpu;         // name of the device
  std::string capability;  // such as "8.7"
  std::string driver;      // CUDA version that it supports, such as "12.6"
  std::string plugins;     // SHA-256 of the plugin library in hex; empty if there is none
};

// The engines of one bundle. All must be from one build, because they share their state.
class EngineFolder {
 public:
  EngineFolder(std::string path, EngineTarget target) : path_(std::move(path)), target_(std::move(target)) {}
  // Checks the sidecar and the bytes of a graph's engine and returns it; throws Failure
  // (STREAMSEG_MISMATCH).
  std::vector<uint8_t> read(const std::string& graph, const std::string& graph_digest);
  // Whether any engine read so far needs the plugin library.
  bool needs_plugins() const { return !plugins_.empty(); }

 private:
  std::string path_;
  EngineTarget target_;
  std::string precision_, plugins_;
  bool tf32_ = false, first_ = true;
};

}  // namespace streamseg::core
