// Parity and time of the CUDA operators, as JSON on standard output. Exits 1 if a limit is exceeded.
//
//   kernel_bench            parity with the CPU kernels in float64, then timings
//   kernel_bench --parity   parity only, also for the CPU twin
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "c_api.h"
#include "cuda_api.h"
#include "cuda_fp16.h"

#if defined(STREAMSEG_HOST_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace {

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "kernel_bench: %s\n", what.c_str());
  std::exit(1);
}

#if defined(STREAMSEG_HOST_CUDA)
void check(cudaError_t status) { require(status == cudaSuccess, cudaGetErrorString(status)); }
void* allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes));
  return memory;
}
void release(void* memory) { check(cudaFree(memory)); }
void upload(void* to, const void* from, size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}
void download(void* to, const void* from, size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}
#else
void* allocate(size_t bytes) { return std::malloc(bytes); }
void release(void* memory) { std::free(memory); }
void upload(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void download(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
#endif

struct Geometry {
  int64_t map_h, map_w, window_h, window_w, offset_h, offset_w;
};

// One tensor: values as the device sees them, in float64 for the reference, and device memory.
class Array {
 public:
  Array(size_t count, bool half, const std::function<double()>& draw) : half_(half) {
    std::vector<__half> narrow(half ? count : 0);
    std::vector<float> wide(half ? 0 : count);
    for (size_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>(draw());
      if (half) narrow[i] = __float2half_rn(value);
      if (!half) wide[i] = value;
      exact.push_back(half ? __half2float(narrow[i]) : value);
    }
    device = allocate(bytes());
    upload(device, half ? static_cast<const void*>(narrow.data()) : wide.data(), bytes());
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { release(device); }

  size_t bytes() const { return exact.size() * (half_ ? 2 : 4); }
  const float* floats() const { return static_cast<const float*>(device); }

  void fill(double value) {
    exact.assign(exact.size(), value);
    std::vector<float> wide(exact.size(), static_cast<float>(value));
    std::vector<__half> narrow(exact.size(), __float2half_rn(static_cast<float>(value)));
    upload(device, half_ ? static_cast<const void*>(narrow.data()) : wide.data(), bytes());
  }

  // Copies the bytes of another tensor of the same size and type.
  void copy(const Array& other) {
    std::vector<char> raw(bytes());
    download(raw.data(), other.device, raw.size());
    upload(device, raw.data(), raw.size());
  }

  std::vector<double> fetch() const {
    std::vector<char> raw(bytes());
    download(raw.data(), device, raw.size());
    std::vector<double> out(exact.size());
    for (size_t i = 0; i < out.size(); ++i) {
      if (half_) {
        out[i] = __half2float(reinterpret_cast<const __half*>(raw.data())[i]);
      } else {
        out[i] = reinterpret_cast<const float*>(raw.data())[i];
      }
    }
    return out;
  }

  std::vector<double> exact;
  void* device;

 private:
  bool half_;
};

double relative_error(const std::vector<double>& got, const std::vector<double>& want) {
  double largest = 0;
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    largest = std::max(largest, std::fabs(want[i]));
    worst = std::max(worst, std::isfinite(got[i]) ? std::fabs(got[i] - want[i]) : INFINITY);
  }
  return largest > 0 ? worst / largest : worst;
}

// The CPU library's float64 kernels, loaded instead of linked: the library is built elsewhere.
struct Reference {
  using Conv = int (*)(const streamseg_sizes*, const double*, const double*, const double*,
                       const double*, double*, double*);
  using Scan = int (*)(const streamseg_sizes*, const double*, const double*, const double*,
                       const double*, const double*, const double*, const double*, const double*,
                       const double*, double*, double*);
  Conv conv;
  Scan scan;

  explicit Reference(const char* path) {
    void* library = dlopen(path, RTLD_NOW);
    require(library != nullptr, library == nullptr ? dlerror() : "");
    conv = reinterpret_cast<Conv>(dlsym(library, "streamseg_windowed_causal_conv_f64"));
    scan = reinterpret_cast<Scan>(dlsym(library, "streamseg_windowed_selective_scan_f64"));
    require(conv != nullptr && scan != nullptr, "the operator library has no float64 kernels");
  }
};

int64_t bands(int64_t extent, int64_t window, int64_t offset) {
  const int64_t first = offset > 0 ? offset : window;
  return extent <= first ? 1 : 1 + (extent - first + window - 1) / window;
}

class Case {
 public:
  Case(const Geometry& g, int64_t channels, int64_t states, bool half)
      : g(g), channels(channels), states(states), half(half),
        cells(bands(g.map_h, g.window_h, g.offset_h) * bands(g.map_w, g.window_w, g.offset_w)),
        maps(static_cast<size_t>(g.map_h * g.map_w * channels)),
        narrow(static_cast<size_t>(g.map_h * g.map_w * states)),
        u(maps, half, normal()), dt(maps, half, normal()), z(maps, half, normal()),
        y(maps, half, nothing), B(narrow, half, normal()), C(narrow, half, normal()),
        weight(static_cast<size_t>(channels * 4), false, normal()),
        bias(static_cast<size_t>(channels), false, normal()),
        dt_bias(static_cast<size_t>(channels), false, uniform(-7, 1)),
        A(static_cast<size_t>(channels * states), false, uniform(-16, -0.5)),
        skip(static_cast<size_t>(channels), false, normal()),
        conv_state(static_cast<size_t>(cells * channels * 3), false, normal()),
        next_conv(conv_state.exact.size(), false, nothing),
        scan_state(static_cast<size_t>(cells * channels * states), false, normal()),
        next_scan(scan_state.exact.size(), false, nothing) {}

  void conv(void* stream) const {
    const streamseg_cuda_sizes s = sizes(4);
    require(streamseg_cuda_windowed_causal_conv(
                &s, half, u.device, weight.floats(), bias.floats(), conv_state.floats(), y.device,
                static_cast<float*>(next_conv.device), stream) == 0,
            streamseg_cuda_last_error());
  }

  void scan(void* stream) const {
    const streamseg_cuda_sizes s = sizes(states);
    require(streamseg_cuda_windowed_selective_scan(
                &s, half, u.device, dt.device, dt_bias.floats(), A.floats(), B.device,
                C.device, skip.floats(), z.device, scan_state.floats(), y.device,
                static_cast<float*>(next_scan.device), stream) == 0,
            streamseg_cuda_last_error());
  }

  // Largest relative error of map and state.
  std::pair<double, double> conv_error(const Reference& reference) const {
    conv(nullptr);
    std::vector<double> want(maps);
    std::vector<double> state(conv_state.exact.size());
    const streamseg_sizes s = host_sizes(4);
    require(reference.conv(&s, u.exact.data(), weight.exact.data(), bias.exact.data(),
                           conv_state.exact.data(), want.data(), state.data()) == 0,
            "the reference refused a convolution");
    return {relative_error(y.fetch(), want), relative_error(next_conv.fetch(), state)};
  }

  std::pair<double, double> scan_error(const Reference& reference) const {
    scan(nullptr);
    std::vector<double> want(maps);
    std::vector<double> state(scan_state.exact.size());
    const streamseg_sizes s = host_sizes(states);
    require(reference.scan(&s, u.exact.data(), dt.exact.data(), dt_bias.exact.data(),
                           A.exact.data(), B.exact.data(), C.exact.data(), skip.exact.data(),
                           z.exact.data(), scan_state.exact.data(), want.data(),
                           state.data()) == 0,
            "the reference refused a scan");
    return {relative_error(y.fetch(), want), relative_error(next_scan.fetch(), state)};
  }

 private:
  static double nothing() { return 0; }
  std::function<double()> normal() {
    return [this] { return std::normal_distribution<double>()(random_); };
  }
  std::function<double()> uniform(double low, double high) {
    return [this, low, high] { return std::uniform_real_distribution<double>(low, high)(random_); };
  }
  streamseg_cuda_sizes sizes(int64_t depth) const {
    return {g.map_h, g.map_w, g.window_h, g.window_w, g.offset_h, g.offset_w, 1, channels, depth};
  }
  streamseg_sizes host_sizes(int64_t depth) const {
    return {g.map_h, g.map_w, g.window_h, g.window_w, g.offset_h, g.offset_w,
            1,       channels, depth,     0};
  }

  std::mt19937 random_{0};  // declared before the arrays, which draw from it

 public:
  Geometry g;
  int64_t channels, states;
  bool half;
  int64_t cells;
  size_t maps, narrow;
  Array u, dt, z, y, B, C, weight, bias, dt_bias, A, skip, conv_state, next_conv, scan_state,
      next_scan;
};

// A constant input for eight frames: the error of a decay near 1 reaches the state divided by
// 1 - decay. Worst share of the bound: the nearest float32 or its neighbour at every token, and 1e-5.
struct AtRest {
  double share = 0;
  double decay = 0;
  double error = 0;
};

AtRest state_at_rest() {
  constexpr int kFrames = 8;
  const double step = std::log1p(std::exp(-2.0));
  AtRest worst;
  for (const double decay : {1e-6, 1e-4, 3e-3, 0.02, 0.036, 0.2}) {
    Case c({20, 20, 20, 20, 0, 0}, 64, 16, false);
    for (Array* array : {&c.u, &c.B, &c.C, &c.z}) array->fill(1);
    for (Array* array : {&c.dt_bias, &c.skip}) array->fill(0);
    c.dt.fill(-2);
    c.A.fill(-decay / step);
    c.scan_state.fill(1 / decay);
    for (int frame = 0; frame < kFrames; ++frame) {
      c.scan(nullptr);
      c.scan_state.copy(c.next_scan);
    }
    const double a = std::exp(step * static_cast<float>(-decay / step));
    const double tokens = kFrames * 400.0;
    const double power = std::pow(a, tokens);
    const double want = power * static_cast<float>(1 / decay) + step * (1 - power) / (1 - a);
    double error = 0;
    for (const double state : c.next_scan.fetch()) {
      error = std::max(error, std::isfinite(state) ? std::fabs(state - want) / want : INFINITY);
    }
    const double bound = std::exp2(-24.5) * std::min(tokens, 1 / decay) + 1e-5;
    if (error / bound > worst.share) worst = {error / bound, decay, error};
  }
  return worst;
}

#if defined(STREAMSEG_HOST_CUDA)
struct Time {
  double median, p95;
};

// Microseconds a call: blocks of calls between two events, after a warm-up.
Time measure(const std::function<void(void*)>& call) {
  constexpr int kBlock = 20;
  constexpr int kBlocks = 50;
  cudaStream_t stream;
  cudaEvent_t begin, end;
  check(cudaStreamCreate(&stream));
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  for (int i = 0; i < 2 * kBlock; ++i) call(stream);
  std::vector<double> times;
  for (int block = 0; block < kBlocks; ++block) {
    check(cudaEventRecord(begin, stream));
    for (int i = 0; i < kBlock; ++i) call(stream);
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    times.push_back(milliseconds * 1000 / kBlock);
  }
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaStreamDestroy(stream));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[times.size() * 95 / 100]};
}

void print_times() {
  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, 0));
  std::printf("  \"gpu\": \"%s\", \"capability\": \"%d.%d\", \"multiprocessors\": %d,\n",
              device.name, device.major, device.minor, device.multiProcessorCount);
  std::printf("  \"microseconds\": {\n");
  for (const bool half : {false, true}) {
    const Case full({80, 140, 20, 20, 0, 0}, 512, 16, half);
    const Case shifted({80, 140, 20, 20, 10, 10}, 512, 16, half);
    const struct {
      const char* name;
      std::function<void(void*)> call;
    } runs[] = {
        {"conv", [&](void* s) { full.conv(s); }},
        {"conv, shifted grid", [&](void* s) { shifted.conv(s); }},
        {"scan", [&](void* s) { full.scan(s); }},
        {"scan, shifted grid", [&](void* s) { shifted.scan(s); }},
    };
    for (const auto& run : runs) {
      const Time time = measure(run.call);
      const bool last = half && &run == &runs[3];
      std::printf("    \"%s, %s\": {\"median\": %.2f, \"p95\": %.2f}%s\n", run.name,
                  half ? "float16" : "float32", time.median, time.p95, last ? "" : ",");
    }
  }
  std::printf("  },\n");
}
#endif

}  // namespace

int main(int count, char** arguments) {
  const bool parity_only = count > 1 && std::strcmp(arguments[1], "--parity") == 0;
  const char* path = std::getenv("STREAMSEG_OPS");
  const Reference reference(path != nullptr ? path : "plugins/libstreamseg_ops.so");

  // Map, window and shift of the nine scan fixtures, as a plain and as a shifted grid.
  std::vector<Geometry> geometries;
  const int64_t shapes[][5] = {{12, 16, 4, 4, 2}, {10, 15, 5, 5, 2}, {14, 21, 7, 7, 3},
                               {18, 12, 6, 6, 3}, {9, 6, 3, 3, 1},   {8, 8, 4, 4, 1},
                               {8, 12, 4, 4, 3},  {8, 18, 4, 6, 2},  {40, 60, 20, 20, 10}};
  for (const auto& s : shapes) {
    geometries.push_back({s[0], s[1], s[2], s[3], 0, 0});
    geometries.push_back({s[0], s[1], s[2], s[3], s[4], s[4]});
  }
  if (!parity_only) {
    geometries.push_back({80, 140, 20, 20, 0, 0});
    geometries.push_back({80, 140, 20, 20, 10, 10});
  }
  double worst[2] = {0, 0};
  double worst_state = 0;
  for (const Geometry& geometry : geometries) {
    for (const bool half : {false, true}) {
      const Case c(geometry, geometry.map_h > 40 ? 128 : 24, 16, half);
      for (const auto& [map, state] : {c.conv_error(reference), c.scan_error(reference)}) {
        worst[half] = std::max(worst[half], map);
        worst_state = std::max(worst_state, state);
      }
    }
  }
  const AtRest rest = state_at_rest();
  const bool passed =
      worst[0] <= 1e-5 && worst[1] <= 2e-3 && worst_state <= 1e-5 && rest.share <= 1;
  std::printf("{\n  \"targets\": \"%s\",\n", streamseg_cuda_targets());
#if defined(STREAMSEG_HOST_CUDA)
  if (!parity_only) print_times();
#endif
  std::printf("  \"state_at_rest\": {\"share_of_bound\": %.3f, \"decay\": %.0e, \"error\": %.2e},\n",
              rest.share, rest.decay, rest.error);
  std::printf("  \"parity\": {\"geometries\": %zu, \"float32\": %.2e, \"float16\": %.2e, "
              "\"state\": %.2e, \"passed\": %s}\n}\n",
              geometries.size(), worst[0], worst[1], worst_state, passed ? "true" : "false");
  return passed ? 0 : 1;
}
