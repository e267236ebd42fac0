/* The C interface of libstreamseg_cuda: the operators on device memory.
 *
 * Every call puts its work on `stream` and returns; it allocates nothing, waits for nothing, and
 * may be captured into a CUDA graph. Arrays are dense and row-major, on the current device, and
 * never modified unless they are outputs; outputs must not overlap inputs. Maps are float32, or
 * float16 where `half_maps` is 1; weights and state are float32 always. A call returns 0, or an
 * error code with the text in streamseg_cuda_last_error() of the same thread. */
#pragma once

#include <stdint.h>

#define STREAMSEG_CUDA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum {
  STREAMSEG_CUDA_OK = 0,
  STREAMSEG_CUDA_INVALID_ARGUMENT = 1,
  STREAMSEG_CUDA_FAILED = 2,
};

/* The map, its window grid and the sizes; `depth` is taps for the convolution, states for the scan. */
typedef struct streamseg_cuda_sizes {
  int64_t map_h, map_w, window_h, window_w, offset_h, offset_w;
  int64_t batch, channels, depth;
} streamseg_cuda_sizes;

STREAMSEG_CUDA_API const char* streamseg_cuda_version(void);
STREAMSEG_CUDA_API const char* streamseg_cuda_last_error(void);

/* Compute capabilities with machine code in this library, separated by commas, then "+ptx" and the
 * capability that newer devices compile from. */
STREAMSEG_CUDA_API const char* streamseg_cuda_targets(void);

/* y = SiLU(conv + bias), and the last depth - 1 inputs of every cell. */
STREAMSEG_CUDA_API int streamseg_cuda_windowed_causal_conv(
    const streamseg_cuda_sizes* sizes, int half_maps, const void* x, const float* weight,
    const float* bias, const float* state, void* y, float* next_state, void* stream);

/* Softplus, scan and gate. Arrays aligned to 16 bytes whose rows are too are read faster. */
STREAMSEG_CUDA_API int streamseg_cuda_windowed_selective_scan(
    const streamseg_cuda_sizes* sizes, int half_maps, const void* u, const void* dt,
    const float* dt_bias, const float* A, const void* B, const void* C, const float* skip,
    const void* z, const float* state, void* y, float* next_state, void* stream);

/* labels [batch, out_height, out_width] of scores [batch, classes, height, width]: bilinear
 * upsampling with half-pixel centres, then the largest; the lowest class wins a tie. Labels are
 * uint8, or int32 where `wide_labels` is 1 (TensorRT lets a plugin write no uint8). */
STREAMSEG_CUDA_API int streamseg_cuda_upsample_argmax(const void* scores, int half_maps,
                                                      int64_t batch, int64_t classes,
                                                      int64_t height, int64_t width,
                                                      int64_t out_height, int64_t out_width,
                                                      int wide_labels, void* labels,
                                                      void* stream);

/* frame [batch, height, width, 3] uint8 to [batch, 3, height, width]: (x - mean) / std. `mean` and
 * `std` are three numbers each, in host memory. */
STREAMSEG_CUDA_API int streamseg_cuda_normalise(const uint8_t* frame, int64_t batch, int64_t height,
                                                int64_t width, const float* mean, const float* std,
                                                int half_maps, void* out, void* stream);

/* *flag = 1 where one of `count` values is NaN or infinite; it is left alone otherwise. `flag` is in
 * device memory. */
STREAMSEG_CUDA_API int streamseg_cuda_find_nonfinite(const void* values, int half_values,
                                                     int64_t count, int32_t* flag, void* stream);

#ifdef __cplusplus
}
#endif
