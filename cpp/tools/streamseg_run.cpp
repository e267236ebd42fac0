// streamseg-run: writes label maps for frames from a file, a camera, a pipeline or standard input.
//
//   streamseg-run out/street --source drive.mp4 --pgm | ffmpeg -f image2pipe -i - labels.mkv
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "frame_source.h"
#include "streamseg/streamseg.hpp"

namespace {

struct Arguments {
  std::string bundle;
  std::string source;
  std::string onnxruntime;
  std::string operators;
  std::string backend;
  std::string engines;
  std::string tensorrt;
  int threads = 0;
  int height = 0;
  int width = 0;
  long frames = -1;
  bool pgm = false;
  streamseg_format format = STREAMSEG_RGB;
};

const char* const kUsage =
    "usage: streamseg-run BUNDLE --source SOURCE [options] > labels\n"
    "       streamseg-run BUNDLE --size HxW [--format FORMAT] [options] < frames > labels\n"
    "  --source SOURCE       a video file, an address such as rtsp://..., a camera /dev/videoN,\n"
    "                        or a GStreamer pipeline that ends in raw video\n"
    "  --size HxW            read raw frames of this size from standard input instead\n"
    "  --format FORMAT       of raw frames: rgb (the default), bgr, rgba, bgra or gray\n"
    "  --frames N            stop after N frames\n"
    "  --pgm                 write each label map as a PGM picture, with its size\n"
    "  --threads N           of one step on the CPU\n"
    "  --backend NAME        onnxruntime (the default), cuda or tensorrt\n"
    "  --onnxruntime PATH    libonnxruntime.so\n"
    "  --operators PATH      libstreamseg_ops.so, or the library of the backend\n"
    "  --engines FOLDER      that streamseg build --out wrote, for tensorrt\n"
    "  --tensorrt PATH       libnvinfer.so\n"
    "Writes one byte for each pixel of each frame: its class id, or 255 for none.\n";

volatile std::sig_atomic_t stopped = 0;

void stop(int) { stopped = 1; }

[[noreturn]] void refuse(const std::string& text) {
  std::fprintf(stderr, "streamseg-run: %s\n%s", text.c_str(), kUsage);
  std::exit(2);
}

long parse_count(const std::string& name, const std::string& value) {
  char* end = nullptr;
  const long count = std::strtol(value.c_str(), &end, 10);
  if (value.empty() || *end != '\0' || count < 0 || count > 1 << 30) {
    refuse(name + " is '" + value + "', expected a number from 0");
  }
  return count;
}

streamseg_format parse_format(const std::string& value) {
  static const std::map<std::string, streamseg_format> formats = {{"rgb", STREAMSEG_RGB},
                                                                  {"bgr", STREAMSEG_BGR},
                                                                  {"rgba", STREAMSEG_RGBA},
                                                                  {"bgra", STREAMSEG_BGRA},
                                                                  {"gray", STREAMSEG_GRAY}};
  const auto format = formats.find(value);
  if (format == formats.end()) refuse("'" + value + "' is not a format");
  return format->second;
}

void parse_size(const std::string& value, Arguments* found) {
  int used = 0;
  if (std::sscanf(value.c_str(), "%dx%d%n", &found->height, &found->width, &used) != 2 ||
      static_cast<size_t>(used) != value.size() || found->height < 1 || found->width < 1) {
    refuse("'" + value + "' is not a size; write height x width, such as 540x960");
  }
}

void set_option(const std::string& name, const std::string& value, Arguments* found) {
  const std::map<std::string, std::string*> texts = {
      {"--source", &found->source},     {"--onnxruntime", &found->onnxruntime}, {"--operators", &found->operators},
      {"--backend", &found->backend},   {"--engines", &found->engines},         {"--tensorrt", &found->tensorrt}};
  const auto text = texts.find(name);
  if (text != texts.end()) {
    *text->second = value;
  } else if (name == "--size") {
    parse_size(value, found);
  } else if (name == "--format") {
    found->format = parse_format(value);
  } else if (name == "--frames") {
    found->frames = parse_count(name, value);
  } else if (name == "--threads") {
    found->threads = static_cast<int>(parse_count(name, value));
  } else {
    refuse("unknown option " + name);
  }
}

Arguments parse(int count, char** values) {
  Arguments found;
  for (int i = 1; i < count; ++i) {
    const std::string name = values[i];
    if (name == "-h" || name == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    }
    if (name == "--pgm") {
      found.pgm = true;
    } else if (name.rfind("--", 0) != 0) {
      if (!found.bundle.empty()) refuse("two bundles: " + found.bundle + " and " + name);
      found.bundle = name;
    } else if (i + 1 == count) {
      refuse(name + " needs a value");
    } else {
      set_option(name, values[++i], &found);
    }
  }
  if (found.bundle.empty()) refuse("name a bundle");
  if (found.source.empty() == (found.height == 0)) refuse("give either --source or --size");
  return found;
}

const char* or_null(const std::string& text) { return text.empty() ? nullptr : text.c_str(); }

bool write_labels(const std::vector<uint8_t>& labels, const streamseg_frame& frame, bool pgm) {
  if (pgm) std::printf("P5\n%d %d\n255\n", frame.width, frame.height);
  return std::fwrite(labels.data(), 1, labels.size(), stdout) == labels.size() && std::fflush(stdout) == 0;
}

void run(const Arguments& given) {
  const streamseg_options options = {or_null(given.onnxruntime), or_null(given.operators), given.threads,
                                     or_null(given.backend),     or_null(given.engines),   or_null(given.tensorrt)};
  streamseg::Stream stream(given.bundle, options);
  auto source = given.source.empty() ? streamseg::open_raw(given.height, given.width, given.format)
                                     : streamseg::open_video(given.source);
  std::vector<uint8_t> labels;
  streamseg_frame frame;
  bool begins = false;
  long i = 0;
  for (; i != given.frames && !stopped && source->next(&frame, &begins); ++i) {
    if (begins) {
      std::fprintf(stderr, "streamseg-run: frame %ld does not continue the video: the state is reset\n", i);
      stream.reset();
    }
    labels.resize(static_cast<size_t>(frame.height) * static_cast<size_t>(frame.width));
    stream.step(frame, labels.data(), static_cast<size_t>(frame.width));
    if (!write_labels(labels, frame, given.pgm)) throw streamseg::SourceError("cannot write labels");
  }
  const std::string doubt = i == given.frames || stopped ? "" : source->doubt();
  if (!doubt.empty()) std::fprintf(stderr, "streamseg-run: %s\n", doubt.c_str());
}

}  // namespace

int main(int count, char** values) {
  const Arguments given = parse(count, values);
  std::signal(SIGPIPE, SIG_IGN);
  if (!given.source.empty()) {  // a signal ends a camera, after a complete label map
    std::signal(SIGINT, stop);
    std::signal(SIGTERM, stop);
  }
  try {
    run(given);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "streamseg-run: %s\n", error.what());
    return 2;
  }
  return 0;
}
