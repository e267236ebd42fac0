// Plays the conformance set on two threads: conformance DATA ONNXRUNTIME [OPERATORS [BACKEND]].
// Exits with 1 if a label differs.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fit.h"
#include "streamseg/streamseg.hpp"

namespace {

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

nlohmann::json read_json(const std::string& path) {
  const auto content = read_file(path);
  return nlohmann::json::parse(content.begin(), content.end());
}

struct Case {
  explicit Case(const std::string& folder)
      : folder(folder),
        about(read_json(folder + "/case.json")),
        frames(read_file(folder + "/frames.bin")),
        labels(read_file(folder + "/labels.bin")) {}
  std::string folder;
  nlohmann::json about;
  std::vector<uint8_t> frames, labels;
};

// Two threads wait for each other before each step, so their steps overlap. Relaxed: a stronger
// memory order would order the steps of the threads and hide races from the thread sanitizer.
class Meeting {
 public:
  void wait() {
    const int place = arrived_.fetch_add(1, kOrder) + 1;
    while (arrived_.load(kOrder) < place + place % 2 && !over_.load(kOrder)) std::this_thread::yield();
  }
  void leave() { over_.store(true, kOrder); }

 private:
  static constexpr auto kOrder = std::memory_order_relaxed;
  std::atomic<int> arrived_{0};
  std::atomic<bool> over_{false};
};

bool play(const Case& played, streamseg::Stream stream, Meeting& meeting) {
  const std::unique_ptr<Meeting, void (*)(Meeting*)> leaving(&meeting, [](Meeting* held) { held->leave(); });
  const int height = played.about["height"], width = played.about["width"];
  const size_t pixels = static_cast<size_t>(height) * static_cast<size_t>(width);
  std::map<std::string, std::vector<uint8_t>> kept;
  size_t step = 0;
  for (const std::string action : played.about["actions"]) {
    const auto space = action.find(' ');
    const std::string name = space == std::string::npos ? "" : action.substr(space + 1);
    if (action == "reset") {
      stream.reset();
    } else if (action.rfind("snapshot", 0) == 0) {
      kept[name] = stream.snapshot();
    } else if (action.rfind("restore", 0) == 0) {
      stream.restore(kept.at(name));
    } else {
      meeting.wait();
      const uint8_t* data = played.frames.data() + step * pixels * 3;
      const auto found = stream.step({data, height, width, width * 3, STREAMSEG_RGB});
      if (std::memcmp(found.data(), played.labels.data() + step * pixels, pixels) != 0) {
        std::printf("%s: labels of step %zu differ\n", played.folder.c_str(), step);
        return false;
      }
      ++step;
    }
  }
  return step == played.about["steps"].get<size_t>();
}

// Two streams of one network at once, each in its own thread.
bool play_twice(const std::string& folder, const streamseg_options& options) {
  const Case played(folder);
  streamseg::Stream first(folder + "/bundle", options);
  Meeting meeting;
  auto other = std::async(std::launch::async, [&, stream = first.sibling()]() mutable {
    return play(played, std::move(stream), meeting);
  });
  const bool one = play(played, first.sibling(), meeting), two = other.get();
  if (one && two) std::printf("%s: %zu steps equal\n", folder.c_str(), played.about["steps"].get<size_t>());
  return one && two;
}

std::vector<std::string> cases_in(const std::string& data) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(data)) {
    if (entry.is_directory()) found.push_back(entry.path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool check_geometry(const std::string& path) {
  for (const auto& row : read_json(path)) {
    const auto region = streamseg::core::place_frame(row["frame"][0], row["frame"][1], row["model"][0], row["model"][1],
                                               row["resize"] == "letterbox");
    const std::vector<int> found = {region.top, region.bottom, region.left, region.right};
    auto rows = streamseg::core::nearest_indices(region.height(), row["frame"][0]);
    auto columns = streamseg::core::nearest_indices(region.width(), row["frame"][1]);
    for (auto& y : rows) y += region.top;
    for (auto& x : columns) x += region.left;
    if (found != row["region"].get<std::vector<int>>() || rows != row["rows"].get<std::vector<int>>() ||
        columns != row["columns"].get<std::vector<int>>()) {
      std::printf("geometry differs: %s\n", row.dump().substr(0, 120).c_str());
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** values) {
  if (count < 3 || count > 5) return 2;
  const std::string data = values[1];
  streamseg_options options = {};
  options.onnxruntime = values[2];
  options.operators = count > 3 && *values[3] != 0 ? values[3] : nullptr;
  options.threads = 1;
  options.backend = count > 4 ? values[4] : nullptr;
  bool good = check_geometry(data + "/geometry.json");
  for (const auto& folder : cases_in(data)) good = play_twice(folder, options) && good;
  return good ? 0 : 1;
}
