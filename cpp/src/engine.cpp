#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "failure.h"
#include "sha256.h"

namespace streamseg::core {
namespace {

using nlohmann::json;

constexpr int kFormat = 2;

[[noreturn]] void refuse(const std::string& text) {
  throw Failure(STREAMSEG_MISMATCH, text + ". Run: streamseg build BUNDLE --out FOLDER");
}

std::vector<uint8_t> read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) refuse("engine file " + path + " cannot be read");
  std::vector<uint8_t> content(static_cast<size_t>(file.tellg()));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(content.size()));
  if (!file) refuse("engine file " + path + " cannot be read");
  return content;
}

struct Record {
  std::string graph_sha256, flavour, version, gpu, driver, precision, plugins_sha256, engine_sha256;
  std::vector<std::string> capabilities;
  bool tf32;
  bool verified;  // passed the comparison with ONNX Runtime when it was built
};

Record parse_record(const json& document, const std::string& path) {
  if (!document.is_object() || document.value("format", 0) != kFormat) {
    refuse("sidecar " + path + " is not of format " + std::to_string(kFormat));
  }
  Record found;
  for (const auto& [name, place] :
       {std::pair<const char*, std::string*>{"graph_sha256", &found.graph_sha256}, {"flavour", &found.flavour},
        {"version", &found.version}, {"gpu", &found.gpu}, {"driver", &found.driver}, {"precision", &found.precision},
        {"plugins_sha256", &found.plugins_sha256}, {"engine_sha256", &found.engine_sha256}}) {
    *place = document.at(name).get<std::string>();
  }
  found.capabilities = document.at("capabilities").get<std::vector<std::string>>();
  found.tf32 = document.at("tf32").get<bool>();
  const json& verification = document.at("verification");
  found.verified = !verification.is_null() && verification.at("passed").get<bool>();
  return found;
}

// The record of the present engine; a sidecar has two while an engine is being replaced.
Record read_record(const std::string& path, const std::string& engine) {
  const auto content = read_whole(path);
  try {
    const json document = json::parse(content.begin(), content.end());
    const Record newest = parse_record(document, path);
    if (newest.engine_sha256 == engine || !document.contains("previous")) return newest;
    const Record previous = parse_record(document.at("previous"), path);
    return previous.engine_sha256 == engine ? previous : newest;
  } catch (const json::exception&) {
    refuse("sidecar " + path + " is damaged");
  }
}

// "10.14.1" and "10.14.1.48" name the same library: the build number may be omitted.
bool same_version(const std::string& built, const std::string& here) {
  const std::string release = built.substr(0, built.find(".post"));
  return release == here || here.rfind(release + ".", 0) == 0;
}

std::pair<int, int> number(const std::string& version) {
  std::pair<int, int> found{0, 0};
  std::sscanf(version.c_str(), "%d.%d", &found.first, &found.second);
  return found;
}

void check(const Record& record, const std::string& path, const std::string& graph, const EngineTarget& here) {
  const auto differs = [&](const std::string& what, const std::string& built, const std::string& found) {
    refuse(path + " was built " + what + " " + built + ", and this machine has " + found);
  };
  if (record.graph_sha256 != graph) {
    refuse(path + " was built from a graph with " + record.graph_sha256.substr(0, 19) + "..., the bundle's has " +
           graph.substr(0, 19) + "...");
  }
  if (record.flavour != "tensorrt") refuse(path + " was built with " + record.flavour + ", expected tensorrt");
  if (!same_version(record.version, here.version)) differs("with TensorRT", record.version, here.version);
  const auto& listed = record.capabilities;
  if (record.gpu != here.gpu || std::find(listed.begin(), listed.end(), here.capability) == listed.end()) {
    differs("for", "'" + record.gpu + "'", "'" + here.gpu + "' (" + here.capability + ")");
  }
  if (number(here.driver) < number(record.driver)) differs("with a driver for CUDA", record.driver, here.driver);
  if (!record.verified) refuse(path + " was never compared with ONNX Runtime, or differed from it");
  if (!record.plugins_sha256.empty() && record.plugins_sha256 != here.plugins) {
    differs("with plugin library", record.plugins_sha256.substr(0, 12) + "...",
            here.plugins.empty() ? "none" : here.plugins.substr(0, 12) + "...");
  }
}

}  // namespace

std::vector<uint8_t> EngineFolder::read(const std::string& graph, const std::string& graph_digest) {
  const std::string path = path_ + "/" + graph + ".engine";
  auto content = read_whole(path);
  const std::string found = digest(content.data(), content.size());
  const Record record = read_record(path_ + "/" + graph + ".json", found);
  check(record, path, graph_digest, target_);
  if (record.engine_sha256 != found) {
    refuse(path + " has " + found.substr(0, 19) + "..., its sidecar says " + record.engine_sha256.substr(0, 19) +
           "...: it was cut short or changed");
  }
  if (!first_ && (record.precision != precision_ || record.plugins_sha256 != plugins_ || record.tf32 != tf32_)) {
    refuse("the engines in " + path_ + " are of different builds, and they share their state");
  }
  precision_ = record.precision;
  plugins_ = record.plugins_sha256;
  tf32_ = record.tf32;
  first_ = false;
  return content;
}

}  // namespace streamseg::core
