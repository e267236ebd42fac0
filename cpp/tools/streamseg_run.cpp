// streamseg-run: raw frames from standard input, label maps to standard output.
//
//   ffmpeg -i in.mp4 -f rawvideo -pix_fmt rgb24 - | streamseg-run out/street --size 540x960 > labels.raw
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "streamseg/streamseg.hpp"

namespace {

struct Arguments {
  std::string bundle;
  std::string onnxruntime;
  std::string operators;
  int threads = 0;
  int height = 0;
  int width = 0;
  streamseg_format format = STREAMSEG_RGB;
};

const char* const kUsage =
    "usage: streamseg-run BUNDLE --size HxW [--format rgb|bgr|rgba|bgra|gray] [--threads N]\n"
    "                     [--onnxruntime libonnxruntime.so] [--operators libstreamseg_ops.so]\n"
    "Reads raw frames from standard input and writes one label map of HxW bytes for each.\n";

[[noreturn]] void refuse(const std::string& text) {
  std::fprintf(stderr, "streamseg-run: %s\n%s", text.c_str(), kUsage);
  std::exit(2);
}

Arguments parse(int count, char** values) {
  static const std::map<std::string, streamseg_format> formats = {{"rgb", STREAMSEG_RGB},
                                                                  {"bgr", STREAMSEG_BGR},
                                                                  {"rgba", STREAMSEG_RGBA},
                                                                  {"bgra", STREAMSEG_BGRA},
                                                                  {"gray", STREAMSEG_GRAY}};
  Arguments found;
  for (int i = 1; i < count; ++i) {
    const std::string name = values[i];
    if (name == "-h" || name == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    if (name.rfind("--", 0) != 0) {
      found.bundle = name;
      continue;
    }
    if (i + 1 == count) refuse(name + " needs a value");
    const std::string value = values[++i];
    if (name == "--size") {
      if (std::sscanf(value.c_str(), "%dx%d", &found.height, &found.width) != 2) {
        refuse("'" + value + "' is not a size; write height x width, such as 540x960");
      }
    } else if (name == "--format") {
      const auto format = formats.find(value);
      if (format == formats.end()) refuse("'" + value + "' is not a format");
      found.format = format->second;
    } else if (name == "--threads") {
      found.threads = std::atoi(value.c_str());
    } else if (name == "--onnxruntime") {
      found.onnxruntime = value;
    } else if (name == "--operators") {
      found.operators = value;
    } else {
      refuse("unknown option " + name);
    }
  }
  if (found.bundle.empty() || found.height < 1 || found.width < 1) refuse("a bundle and --size are needed");
  return found;
}

const char* or_null(const std::string& text) { return text.empty() ? nullptr : text.c_str(); }

}  // namespace

int main(int count, char** values) {
  const Arguments given = parse(count, values);
  try {
    streamseg::Stream stream(given.bundle, {or_null(given.onnxruntime), or_null(given.operators), given.threads});
    static const int bytes[] = {3, 3, 4, 4, 1};
    const size_t row = static_cast<size_t>(given.width) * static_cast<size_t>(bytes[given.format]);
    std::vector<uint8_t> frame(row * static_cast<size_t>(given.height));
    std::vector<uint8_t> labels(static_cast<size_t>(given.width) * static_cast<size_t>(given.height));
    size_t got;
    while ((got = std::fread(frame.data(), 1, frame.size(), stdin)) == frame.size()) {
      stream.step({frame.data(), given.height, given.width, static_cast<ptrdiff_t>(row), given.format},
                  labels.data(), static_cast<size_t>(given.width));
      if (std::fwrite(labels.data(), 1, labels.size(), stdout) != labels.size()) {
        std::fprintf(stderr, "streamseg-run: cannot write labels\n");
        return 2;
      }
    }
    if (got != 0) {
      std::fprintf(stderr, "streamseg-run: the last frame is cut off: %zu of %zu bytes\n", got, frame.size());
      return 2;
    }
  } catch (const streamseg::Error& error) {
    std::fprintf(stderr, "streamseg-run: %s\n", error.what());
    return 2;
  }
  return 0;
}
