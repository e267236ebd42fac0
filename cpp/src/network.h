// A loaded bundle: its manifest, sessions and given values; shared by its streams.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "manifest.h"
#include "onnxruntime.h"
#include "streamseg/streamseg.h"

namespace streamseg {

class Network {
 public:
  Network(const std::string& folder, const streamseg_options& options);
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  const Manifest& manifest() const { return manifest_; }
  const ort::Library& runtime() const { return runtime_; }
  ort::Session* session(const std::string& graph) const { return sessions_.at(graph); }
  // The values of a given state that the bundle holds; empty where it holds none.
  const std::vector<uint8_t>& given(const std::string& state) const;
  // Equal for bundles that compute the same.
  const std::string& identity() const { return identity_; }

 private:
  Manifest manifest_;
  ort::Library runtime_;
  std::map<std::string, ort::Session*> sessions_;
  std::map<std::string, std::vector<uint8_t>> given_;
  std::string identity_;
};

}  // namespace streamseg
