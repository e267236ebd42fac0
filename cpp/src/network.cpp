#include "network.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "content.h"
#include "failure.h"
#include "sha256.h"

namespace streamseg::core {
namespace {

constexpr size_t kMaxManifest = size_t{16} << 20;

// Rejects links anywhere below the folder: they could point outside it.
Content read_inside(const std::string& folder, const std::string& name, size_t limit = SIZE_MAX) {
  std::string path = folder;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    path += "/" + name.substr(begin, end - begin);
    begin = end + 1;
    struct stat info {};
    if (lstat(path.c_str(), &info) != 0) fail_bundle("the bundle has no " + path);
    if (S_ISLNK(info.st_mode)) fail_bundle(path + " is a link; a bundle holds plain files only");
    if (begin > name.size() && !S_ISREG(info.st_mode)) fail_bundle(path + " is not a plain file");
  }
  return Content(path, limit);
}

Content read_verified(const std::string& folder, const std::string& name, const Manifest& manifest) {
  auto content = read_inside(folder, name);
  const std::string found = digest(content.data(), content.size());
  if (found != manifest.files.at(name)) {
    fail_bundle(folder + "/" + name + " has " + found.substr(0, 19) + "..., the manifest says " +
                manifest.files.at(name).substr(0, 19) + "...: the file was changed or damaged after export");
  }
  return content;
}

void require_unchanged(const Content& content, const std::string& folder, const std::string& name) {
  if (content.changed()) fail_bundle(folder + "/" + name + " was changed while it was opened; open the bundle again");
}

Manifest read_manifest(const std::string& folder) {
  const auto content = read_inside(folder, "manifest.json", kMaxManifest);
  return parse_manifest(std::string(content.begin(), content.end()));
}

// The values of a .npy file (little-endian, C order) for a state.
std::vector<uint8_t> read_npy(const Content& content, const StateSpec& spec) {
  const uint8_t* file = content.data();
  const std::string subject = "the values of state '" + spec.name + "' ";
  if (content.size() < 12 || std::memcmp(file, "\x93NUMPY", 6) != 0) fail_bundle(subject + "are not a .npy file");
  const bool wide = file[6] > 1;
  const size_t start = wide ? 12 : 10;
  size_t length = file[8] | static_cast<size_t>(file[9]) << 8;
  if (wide) length |= static_cast<size_t>(file[10]) << 16 | static_cast<size_t>(file[11]) << 24;
  if (content.size() < start + length || content.size() - start - length != spec.bytes()) {
    fail_bundle(subject + "have another size than its shape");
  }
  static const std::map<int, std::string> types = {{1, "<f4"}, {2, "|u1"}, {6, "<i4"}, {7, "<i8"}, {10, "<f2"}};
  std::string shape = "(";
  for (size_t i = 0; i < spec.shape.size(); ++i) {
    shape += (i ? ", " : "") + std::to_string(spec.shape[i]);
  }
  shape += spec.shape.size() == 1 ? ",)" : ")";
  const std::string header(file + start, file + start + length);
  for (const std::string& part : {"'descr': '" + types.at(spec.element_type) + "'",
                                  std::string("'fortran_order': False"), "'shape': " + shape}) {
    if (header.find(part) == std::string::npos) fail_bundle(subject + "are not of its type and shape");
  }
  return {file + start + length, content.end()};
}

}  // namespace

Network::Network(const std::string& folder, const streamseg_options& options)
    : manifest_(read_manifest(folder)), backend_(make_backend(options, manifest_)) {
  std::string joined;
  for (const auto& [name, graph] : manifest_.graphs) {
    const auto content = read_verified(folder, graph.file, manifest_);
    joined += name + ":" + manifest_.files.at(graph.file) + "\n";
    backend_->open_graph(name, content, manifest_.files.at(graph.file));
    require_unchanged(content, folder, graph.file);
  }
  identity_ = digest(reinterpret_cast<const uint8_t*>(joined.data()), joined.size());
  for (const auto& spec : manifest_.state) {
    if (spec.init.rfind("file:", 0) != 0) continue;
    const std::string file = spec.init.substr(5);
    const auto content = read_verified(folder, file, manifest_);
    given_[spec.name] = read_npy(content, spec);
    require_unchanged(content, folder, file);
  }
}

const std::vector<uint8_t>& Network::given(const std::string& state) const {
  static const std::vector<uint8_t> none;
  const auto found = given_.find(state);
  return found == given_.end() ? none : found->second;
}

}  // namespace streamseg::core
