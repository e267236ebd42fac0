// A loaded bundle: its manifest, sessions and given values; shared by its streams.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "manifest.h"
#include "streamseg/streamseg.h"

namespace streamseg::core {

class Network {
 public:
  Network(const std::string& folder, const streamseg_options& options);
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  const Manifest& manifest() const { return manifest_; }
  Backend& backend() const { return *backend_; }
  // The values of a given state in the bundle; empty if it has none.
  const std::vector<uint8_t>& given(const std::string& state) const;
  // Equal for bundles that compute the same results.
  const std::string& identity() const { return identity_; }

 private:
  Manifest manifest_;
  std::unique_ptr<Backend> backend_;
  std::map<std::string, std::vector<uint8_t>> given_;
  std::string identity_;
};

}  // namespace streamseg::core
