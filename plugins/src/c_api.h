/* The C interface of libstreamseg_ops. Arrays are dense, row-major, and never modified unless they
 * are outputs; outputs must not overlap inputs. Every function that returns int returns 0, or an
 * error code with the text in streamseg_last_error() of the same thread. */
#pragma once

#include <stdint.h>

#define STREAMSEG_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

enum {
  STREAMSEG_OK = 0,
  STREAMSEG_INVALID_ARGUMENT = 1,
  STREAMSEG_OUT_OF_MEMORY = 2,
  STREAMSEG_FAILED = 3,
};

/* The map, its window grid and the sizes; `depth` is taps for the convolution, states for the scan.
 * `threads` includes the caller; 0 uses one per core. Fewer run if the system cannot start them. */
typedef struct streamseg_sizes {
  int64_t map_h, map_w, window_h, window_w, offset_h, offset_w;
  int64_t batch, channels, depth, threads;
} streamseg_sizes;

STREAMSEG_API const char* streamseg_version(void);
STREAMSEG_API const char* streamseg_last_error(void);

/* Instruction sets: those that this processor has, separated by commas; the one in use; and a
 * selection by name, "" for the widest. STREAMSEG_CPU_LEVEL sets the initial one. */
STREAMSEG_API const char* streamseg_levels(void);
STREAMSEG_API const char* streamseg_level(void);
STREAMSEG_API int streamseg_select_level(const char* name);

/* An instruction set that this processor has but that is not used, because the operating system does
 * not permit it or its products are wrong: "name: reason"; "" if there is none. */
STREAMSEG_API const char* streamseg_rejected_level(void);

/* *cells = number of cells of the grid. */
STREAMSEG_API int streamseg_cells(const streamseg_sizes* sizes, int64_t* cells);

#define STREAMSEG_DECLARE(suffix, T)                                                              \
  STREAMSEG_API int streamseg_windowed_causal_conv##suffix(                                       \
      const streamseg_sizes* sizes, const T* x, const T* weight, const T* bias, const T* state,   \
      T* y, T* next_state);                                                                       \
  /* grad_next_state may be null: zero. */                                                        \
  STREAMSEG_API int streamseg_windowed_causal_conv_backward##suffix(                              \
      const streamseg_sizes* sizes, const T* x, const T* weight, const T* bias, const T* state,   \
      const T* grad_y, const T* grad_next_state, T* grad_x, T* grad_weight, T* grad_bias,         \
      T* grad_state);                                                                             \
  STREAMSEG_API int streamseg_windowed_selective_scan##suffix(                                    \
      const streamseg_sizes* sizes, const T* u, const T* dt, const T* dt_bias, const T* A,        \
      const T* B, const T* C, const T* skip, const T* z, const T* state, T* y, T* next_state);    \
  /* grad_next_state may be null: zero. */                                                        \
  STREAMSEG_API int streamseg_windowed_selective_scan_backward##suffix(                           \
      const streamseg_sizes* sizes, const T* u, const T* dt, const T* dt_bias, const T* A,        \
      const T* B, const T* C, const T* skip, const T* z, const T* state, const T* grad_y,         \
      const T* grad_next_state, T* grad_u, T* grad_dt, T* grad_dt_bias, T* grad_A, T* grad_B,     \
      T* grad_C, T* grad_skip, T* grad_z, T* grad_state);

STREAMSEG_DECLARE(_f32, float)
STREAMSEG_DECLARE(_f64, double)
#undef STREAMSEG_DECLARE

/* A fused Mamba layer: RMSNorm, projections, convolution, scan, gate, residual, in one pass. The
 * weights are copied and packed for the instruction set in use. Products are [inputs, outputs].
 * `precision` of the products: 0 float32, 1 bfloat16, 2 int8 with a scale per token. */
typedef struct streamseg_layer streamseg_layer;

typedef struct streamseg_layer_sizes {
  int64_t features, channels, taps, states, rank;
} streamseg_layer_sizes;

typedef struct streamseg_layer_weights {
  const float *norm, *u_proj, *z_proj, *conv_weight, *conv_bias, *dt_proj, *dt_bias, *A, *x_proj,
      *skip, *out_proj;
} streamseg_layer_weights;

STREAMSEG_API int streamseg_layer_create(const streamseg_layer_sizes* sizes,
                                         const streamseg_layer_weights* weights, int precision,
                                         streamseg_layer** layer);
STREAMSEG_API void streamseg_layer_destroy(streamseg_layer* layer);

/* Only the geometry, batch and threads of `sizes` are read. */
STREAMSEG_API int streamseg_windowed_mamba_layer(const streamseg_layer* layer,
                                                 const streamseg_sizes* sizes, const float* x,
                                                 const float* conv_state, const float* scan_state,
                                                 float* y, float* next_conv_state,
                                                 float* next_scan_state);

/* y [batch, queries, features] = softmax(q k^T / sqrt(features / heads)) v of every head; k and v are
 * [batch, keys, features]. `precision` of the products as above. */
typedef struct streamseg_attention_sizes {
  int64_t batch, heads, queries, keys, features, threads;
} streamseg_attention_sizes;

STREAMSEG_API int streamseg_multi_head_attention(const streamseg_attention_sizes* sizes,
                                                 int precision, const float* q, const float* k,
                                                 const float* v, float* y);

/* labels [batch, out_height, out_width] of logits [batch, classes, height, width]. */
STREAMSEG_API int streamseg_upsample_argmax(const float* logits, int64_t batch, int64_t classes,
                                            int64_t height, int64_t width, int64_t out_height,
                                            int64_t out_width, int64_t threads, uint8_t* labels);

#ifdef __cplusplus
}
#endif
