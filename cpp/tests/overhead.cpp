// The overhead of the library over a bare program: time and memory, or the number of allocations.
//
//   overhead bare|library BUNDLE ONNXRUNTIME THREADS STEPS [OPERATORS]   open, run; prints one JSON object
//   overhead both         ...   runs both in turn; prints the median CPU time of each in us
//   overhead allocations  ...   exits with 1 if the library's step allocates more than the bare one
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "bare.h"
#include "streamseg/streamseg.hpp"

namespace {

std::atomic<long> allocations{0};

}  // namespace

// Every allocation of the process goes through here, including those of ONNX Runtime.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_calloc(count, size);
}
void* realloc(void* pointer, size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_realloc(pointer, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, size_t alignment, size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  *out = __libc_memalign(alignment, size);
  return *out == nullptr ? 12 : 0;
}
}

namespace {

double seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

struct Work {
  std::string bundle, onnxruntime;
  int threads, steps;
  const char* operators;
  std::string graph() const { return bundle + "/step.onnx"; }
};

class Peers {
 public:
  explicit Peers(const Work& work) : work_(work) {}
  void open_bare() { bare_ = bare_open(work_.onnxruntime.c_str(), work_.operators, work_.graph().c_str(), work_.threads); }
  void open_library() {
    streamseg_options options = {};
    options.onnxruntime = work_.onnxruntime.c_str();
    options.operators = work_.operators;
    options.threads = work_.threads;
    stream_.emplace_back(work_.bundle, options);
  }
  void set_size(int height, int width) {
    height_ = height, width_ = width;
    frame_.assign(static_cast<size_t>(height) * static_cast<size_t>(width) * 3, 0);
    for (size_t i = 0; i < frame_.size(); ++i) frame_[i] = static_cast<uint8_t>(i * 31 % 251);
    labels_.resize(frame_.size() / 3);
  }
  void library_size() {
    int height = 0, width = 0;
    streamseg_model_size(stream_[0].get(), &height, &width);
    set_size(height, width);
  }
  void step_bare() { bare_step(bare_, frame_.data(), labels_.data()); }
  void step_library() {
    stream_[0].step({frame_.data(), height_, width_, ptrdiff_t{3} * width_, STREAMSEG_RGB}, labels_.data(),
                    static_cast<size_t>(width_));
  }
  const std::vector<uint8_t>& labels() const { return labels_; }

 private:
  Work work_;
  bare* bare_ = nullptr;
  std::vector<streamseg::Stream> stream_;
  std::vector<uint8_t> frame_, labels_;
  int height_ = 0, width_ = 0;
};

long kilobytes(const char* field) {
  FILE* file = std::fopen("/proc/self/status", "r");
  char line[256];
  long found = 0;
  while (file != nullptr && std::fgets(line, sizeof line, file) != nullptr) {
    if (std::strncmp(line, field, std::strlen(field)) == 0) found = std::atol(line + std::strlen(field));
  }
  if (file != nullptr) std::fclose(file);
  return found;
}

// The caller gives the frame size of the bare program: HxW in STREAMSEG_SIZE.
int run_alone(Peers& peers, const Work& work, bool library) {
  const double wall = seconds(CLOCK_MONOTONIC), processor = seconds(CLOCK_PROCESS_CPUTIME_ID);
  library ? peers.open_library() : peers.open_bare();
  const double opened = seconds(CLOCK_MONOTONIC) - wall, used = seconds(CLOCK_PROCESS_CPUTIME_ID) - processor;
  if (library) {
    peers.library_size();
  } else {
    int height = 0, width = 0;
    if (std::sscanf(std::getenv("STREAMSEG_SIZE"), "%dx%d", &height, &width) != 2) return 2;
    peers.set_size(height, width);
  }
  for (int i = 0; i < work.steps; ++i) library ? peers.step_library() : peers.step_bare();
  std::printf("{\"open_s\": %.6f, \"open_cpu_s\": %.6f, \"peak_kb\": %ld, \"end_kb\": %ld}\n", opened, used,
              kilobytes("VmHWM:"), kilobytes("VmRSS:"));
  return 0;
}

int run_both(Peers& peers, const Work& work) {
  peers.open_library();
  peers.open_bare();
  peers.library_size();
  std::vector<double> times[2];
  for (int i = -4; i < work.steps * 2; ++i) {
    const bool library = (i & 1) != 0;
    const double before = seconds(CLOCK_THREAD_CPUTIME_ID);
    library ? peers.step_library() : peers.step_bare();
    if (i >= 0) times[library].push_back((seconds(CLOCK_THREAD_CPUTIME_ID) - before) * 1e6);
  }
  std::printf("{\"bare_us\": %.2f, \"library_us\": %.2f}\n", median(times[0]), median(times[1]));
  return 0;
}

long most_allocations(const std::function<void()>& step, int steps) {
  long most = 0;
  for (int i = 0; i < steps; ++i) {
    const long before = allocations.load();
    step();
    most = std::max(most, allocations.load() - before);
  }
  return most;
}

int count_allocations(Peers& peers, const Work& work) {
  peers.open_library();
  peers.open_bare();
  peers.library_size();
  std::vector<uint8_t> first;
  for (int i = 0; i < 4; ++i) {  // creates arenas, plans and the fitter
    peers.step_library();
    first = peers.labels();
    peers.step_bare();
    if (first != peers.labels()) {
      std::printf("labels of step %d differ\n", i);
      return 1;
    }
  }
  const long bare = most_allocations([&] { peers.step_bare(); }, work.steps);
  const long library = most_allocations([&] { peers.step_library(); }, work.steps);
  std::printf("allocations of a step: bare %ld, library %ld\n", bare, library);
  return library > bare ? 1 : 0;
}

}  // namespace

int main(int count, char** values) {
  if (count < 6) return 2;
  const Work work = {values[2], values[3], std::atoi(values[4]), std::atoi(values[5]), count > 6 ? values[6] : nullptr};
  const std::string mode = values[1];
  Peers peers(work);
  try {
    if (mode == "bare" || mode == "library") return run_alone(peers, work, mode == "library");
    if (mode == "both") return run_both(peers, work);
    if (mode == "allocations") return count_allocations(peers, work);
  } catch (const streamseg::Error& error) {
    std::fprintf(stderr, "overhead: %s\n", error.what());
  }
  return 2;
}
