#include "cuda_api.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "causal_conv.cuh"
#include "frames.cuh"
#include "ops.h"
#include "selective_scan.cuh"

namespace streamseg::cuda {
namespace {

thread_local char last_error[512] = "";

void require_pointers(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (pointer == nullptr) throw InvalidArgument("an array is null, expected device memory");
  }
}

#if defined(__CUDACC__)
void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status) + " (" +
                           cudaGetErrorName(status) + ")");
}

template <class... Arguments>
void launch_kernel(const char* name, void (*kernel)(Arguments...), dim3 grid, int threads,
                   void* stream, Arguments... arguments) {
  kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError(), name);
}
#endif

template <class Run>
int guarded(const Run& run) noexcept {
  try {
    run();
    return STREAMSEG_CUDA_OK;
  } catch (const InvalidArgument& error) {
    std::snprintf(last_error, sizeof last_error, "%s", error.what());
    return STREAMSEG_CUDA_INVALID_ARGUMENT;
  } catch (const std::exception& error) {
    std::snprintf(last_error, sizeof last_error, "%s", error.what());
    return STREAMSEG_CUDA_FAILED;
  }
}

// `depth` is the operator's own axis: taps or states.
WindowGrid checked_grid(const Operator& op, const streamseg_cuda_sizes& s, Axis depth) {
  Sizes sizes(op, &s.map_h);
  sizes.bind(Axis::kBatch, s.batch);
  sizes.bind(Axis::kChannels, s.channels);
  sizes.bind(depth, s.depth);
  return sizes.grid();
}

int32_t divide_up(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

bool are_multiples(std::initializer_list<int64_t> sizes, int64_t of) {
  return std::all_of(sizes.begin(), sizes.end(), [of](int64_t size) { return size % of == 0; });
}

int64_t address(const void* pointer) { return reinterpret_cast<intptr_t>(pointer); }

template <class T>
void launch_conv(const streamseg_cuda_sizes& s, ConvArguments<T> p, void* stream) {
  const int64_t longest = int64_t{s.window_h < s.map_h ? s.window_h : s.map_h} *
                          int64_t{s.window_w < s.map_w ? s.window_w : s.map_w};
  const bool fours = s.depth == 4 && s.channels % 4 == 0 &&
                     are_multiples({address(p.x), address(p.y)}, 4 * sizeof(T)) &&
                     are_multiples({address(p.weight), address(p.bias)}, 4 * sizeof(float));
  const int64_t threads = fours ? s.channels / 4 : s.channels;
  p.runs = divide_up(longest, kConvRun);
  for (p.lanes = 0; (1 << p.lanes) < kConvThreads && (1 << p.lanes) < threads;) ++p.lanes;
  const dim3 grid(divide_up(static_cast<int64_t>(p.cells) * p.runs, kConvThreads >> p.lanes),
                  divide_up(threads, 1 << p.lanes), static_cast<uint32_t>(s.batch));
  launch_kernel("launching windowed_causal_conv",
                fours ? causal_conv_fours_kernel<T> : causal_conv_kernel<T>, grid, kConvThreads,
                stream, p);
}

// Rows of maps and of B and C are whole pieces, and lie at multiples of their size.
template <class T>
bool in_pieces(const ScanArguments<T>& p) {
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  return are_multiples({p.channels * kSize, p.states * kSize, address(p.u), address(p.dt),
                        address(p.B), address(p.C), address(p.z), address(p.y)},
                       kPieceBytes);
}

template <class T, int States>
void launch_scan(const streamseg_cuda_sizes& s, const ScanArguments<T>& p, void* stream) {
  const dim3 grid(static_cast<uint32_t>(p.cells),
                  divide_up(s.channels, kScanThreads / kScanSplit),
                  static_cast<uint32_t>(s.batch));
  launch_kernel("launching windowed_selective_scan",
                in_pieces(p) ? selective_scan_kernel<T, States, true>
                             : selective_scan_kernel<T, States, false>,
                grid, kScanThreads, stream, p);
}

}  // namespace
}  // namespace streamseg::cuda

using namespace streamseg;
using namespace streamseg::cuda;

const char* streamseg_cuda_version(void) { return STREAMSEG_VERSION; }
const char* streamseg_cuda_last_error(void) { return last_error; }
const char* streamseg_cuda_targets(void) { return STREAMSEG_CUDA_TARGETS; }

int streamseg_cuda_windowed_causal_conv(const streamseg_cuda_sizes* sizes, int half_maps,
                                        const void* x, const float* weight, const float* bias,
                                        const float* state, void* y, float* next_state,
                                        void* stream) {
  return guarded([&] {
    const auto grid = checked_grid(kCausalConv, *sizes, Axis::kTaps);
    require_pointers({x, weight, bias, y});
    if (sizes->depth > 1) require_pointers({state, next_state});
    const auto launch = [&](auto zero) {
      using T = decltype(zero);
      launch_conv<T>(*sizes,
                     {grid, static_cast<int32_t>(grid.cells()),
                      static_cast<int32_t>(sizes->channels), static_cast<int32_t>(sizes->depth), 0, 0,
                      static_cast<const T*>(x), weight, bias, state, static_cast<T*>(y),
                      next_state},
                     stream);
    };
    half_maps ? launch(__half{}) : launch(float{});
  });
}

int streamseg_cuda_windowed_selective_scan(const streamseg_cuda_sizes* sizes, int half_maps,
                                           const void* u, const void* dt, const float* dt_bias,
                                           const float* A, const void* B, const void* C,
                                           const float* skip, const void* z, const float* state,
                                           void* y, float* next_state, void* stream) {
  return guarded([&] {
    const auto grid = checked_grid(kSelectiveScan, *sizes, Axis::kStates);
    require_pointers({u, dt, dt_bias, A, B, C, skip, z, state, y, next_state});
    const auto launch = [&](auto zero) {
      using T = decltype(zero);
      const ScanArguments<T> p{grid,
                               static_cast<int32_t>(grid.cells()),
                               static_cast<int32_t>(sizes->channels),
                               static_cast<int32_t>(sizes->depth),
                               static_cast<const T*>(u),
                               static_cast<const T*>(dt),
                               dt_bias,
                               A,
                               static_cast<const T*>(B),
                               static_cast<const T*>(C),
                               skip,
                               static_cast<const T*>(z),
                               state,
                               static_cast<T*>(y),
                               next_state};
      sizes->depth <= 16 ? launch_scan<T, 4>(*sizes, p, stream)
                         : launch_scan<T, 16>(*sizes, p, stream);
    };
    half_maps ? launch(__half{}) : launch(float{});
  });
}

int streamseg_cuda_upsample_argmax(const void* scores, int half_maps, int64_t batch,
                                   int64_t classes, int64_t height, int64_t width,
                                   int64_t out_height, int64_t out_width, int wide_labels,
                                   void* labels, void* stream) {
  return guarded([&] {
    const int64_t attributes[] = {out_height, out_width};
    const int64_t shape[] = {batch, classes, height, width};
    Sizes(kUpsampleArgmax, attributes).take(kUpsampleArgmax.inputs[0], shape, 4);
    require_pointers({scores, labels});
    const LabelSizes sizes{static_cast<int32_t>(classes), static_cast<int32_t>(height),
                           static_cast<int32_t>(width), static_cast<int32_t>(out_height),
                           static_cast<int32_t>(out_width)};
    const dim3 grid(divide_up(out_width, kPixelThreads), static_cast<uint32_t>(out_height),
                    static_cast<uint32_t>(batch));
    const auto launch = [&](auto zero, auto label) {
      using T = decltype(zero);
      using Label = decltype(label);
      launch_kernel("launching upsample_argmax", upsample_argmax_kernel<T, Label>, grid,
                    kPixelThreads, stream, sizes, static_cast<const T*>(scores),
                    static_cast<Label*>(labels));
    };
    if (wide_labels) {
      half_maps ? launch(__half{}, int32_t{}) : launch(float{}, int32_t{});
    } else {
      half_maps ? launch(__half{}, uint8_t{}) : launch(float{}, uint8_t{});
    }
  });
}

int streamseg_cuda_normalise(const uint8_t* frame, int64_t batch, int64_t height, int64_t width,
                             const float* mean, const float* std, int half_maps, void* out,
                             void* stream) {
  return guarded([&] {
    require_limit(Axis::kBatch, batch);
    require_range("height * width", height * width, 1, INT32_MAX / 3);
    require_pointers({frame, mean, std, out});
    Normalisation p;
    for (int c = 0; c < 3; ++c) {
      if (!(std[c] > 0)) throw InvalidArgument("std is not positive");
      p.mean[c] = mean[c];
      p.scale[c] = 1.0f / std[c];
    }
    const auto pixels = static_cast<int32_t>(height * width);
    const dim3 grid(divide_up(pixels, kPixelThreads), static_cast<uint32_t>(batch));
    const auto launch = [&](auto zero) {
      using T = decltype(zero);
      launch_kernel("launching normalise", normalise_kernel<T>, grid, kPixelThreads, stream, p,
                    pixels, frame, static_cast<T*>(out));
    };
    half_maps ? launch(__half{}) : launch(float{});
  });
}

int streamseg_cuda_find_nonfinite(const void* values, int half_values, int64_t count, int32_t* flag,
                                  void* stream) {
  return guarded([&] {
    require_range("count", count, 1, INT64_MAX / 4);
    require_pointers({values, flag});
    constexpr int64_t kMaxBlocks = 1024;
    const int64_t needed = (count + kPixelThreads - 1) / kPixelThreads;
    const auto blocks = static_cast<uint32_t>(needed < kMaxBlocks ? needed : kMaxBlocks);
    const int64_t stride = static_cast<int64_t>(blocks) * kPixelThreads;
    const auto launch = [&](auto zero) {
      using T = decltype(zero);
      launch_kernel("launching find_nonfinite", find_nonfinite_kernel<T>, dim3(blocks),
                    kPixelThreads, stream, count, stride, static_cast<const T*>(values), flag);
    };
    half_values ? launch(__half{}) : launch(float{});
  });
}
