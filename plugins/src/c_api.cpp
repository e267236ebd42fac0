#include "c_api.h"

#include <new>
#include <string>
#include <utility>

#include "operators.h"

using namespace streamseg;

namespace {

thread_local std::string last_error;

int fail(int code, const std::string& message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();
  }
  return code;
}

// Runs `body`; no exception leaves the library.
template <class Body>
int guarded(const Body& body) noexcept {
  try {
    body();
    return STREAMSEG_OK;
  } catch (const InvalidArgument& error) {
    return fail(STREAMSEG_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(STREAMSEG_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(STREAMSEG_FAILED, error.what());
  }
}

template <class... Pointers>
void require_pointers(const Pointers*... pointers) {
  if (((pointers == nullptr) || ...)) throw InvalidArgument("an argument is a null pointer");
}

// `depth` is the operator's own axis: taps or states.
Sizes sizes_of(const Operator& op, const streamseg_sizes& s, Axis depth) {
  Sizes sizes(op, &s.map_h);
  sizes.bind(Axis::kBatch, s.batch);
  sizes.bind(Axis::kChannels, s.channels);
  sizes.bind(depth, s.depth);
  return sizes;
}

WindowGrid conv_grid(const streamseg_sizes& s) {
  return sizes_of(kCausalConv, s, Axis::kTaps).grid();
}

WindowGrid scan_grid(const streamseg_sizes& s) {
  return sizes_of(kSelectiveScan, s, Axis::kStates).grid();
}

template <class T>
int conv(const streamseg_sizes* s, const T* x, const T* weight, const T* bias, const T* state, T* y,
         T* next_state) {
  return guarded([&] {
    require_pointers(s, x, weight, bias, state, y, next_state);
    windowed_causal_conv<T>({conv_grid(*s), s->batch, s->channels, s->depth, x, weight, bias, state,
                             y, next_state},
                            ThreadExecutor(s->threads));
  });
}

template <class T>
int conv_backward(const streamseg_sizes* s, const T* x, const T* weight, const T* bias,
                  const T* state, const T* grad_y, const T* grad_next_state, T* grad_x,
                  T* grad_weight, T* grad_bias, T* grad_state) {
  return guarded([&] {
    require_pointers(s, x, weight, bias, state, grad_y, grad_x, grad_weight, grad_bias,
                     grad_state);
    windowed_causal_conv_backward<T>(
        {conv_grid(*s), s->batch, s->channels, s->depth, x, weight, bias, state, nullptr, nullptr},
        {grad_y, grad_next_state, grad_x, grad_state, nullptr, nullptr}, grad_weight, grad_bias,
        ThreadExecutor(s->threads));
  });
}

template <class T>
int scan(const streamseg_sizes* s, const T* u, const T* dt, const T* dt_bias, const T* A,
         const T* B, const T* C, const T* skip, const T* z, const T* state, T* y, T* next_state) {
  return guarded([&] {
    require_pointers(s, u, dt, dt_bias, A, B, C, skip, z, state, y, next_state);
    windowed_selective_scan<T>({scan_grid(*s), s->batch, s->channels, s->depth, u, dt, dt_bias, A, B,
                                C, skip, z, state, y, next_state, nullptr},
                               ThreadExecutor(s->threads));
  });
}

template <class T>
int scan_backward(const streamseg_sizes* s, const T* u, const T* dt, const T* dt_bias, const T* A,
                  const T* B, const T* C, const T* skip, const T* z, const T* state,
                  const T* grad_y, const T* grad_next_state, T* grad_u, T* grad_dt,
                  T* grad_dt_bias, T* grad_A, T* grad_B, T* grad_C, T* grad_skip, T* grad_z,
                  T* grad_state) {
  return guarded([&] {
    require_pointers(s, u, dt, dt_bias, A, B, C, skip, z, state, grad_y, grad_u, grad_dt,
                     grad_dt_bias, grad_A, grad_B, grad_C, grad_skip, grad_z, grad_state);
    windowed_selective_scan_backward<T>(
        {scan_grid(*s), s->batch, s->channels, s->depth, u, dt, dt_bias, A, B, C, skip, z, state,
         nullptr, nullptr, nullptr},
        {grad_y, grad_next_state, grad_u, grad_dt, grad_B, grad_C, grad_z, grad_state, nullptr,
         nullptr, nullptr},
        grad_dt_bias, grad_A, grad_skip, ThreadExecutor(s->threads));
  });
}

}  // namespace

const char* streamseg_version(void) { return STREAMSEG_VERSION; }

const char* streamseg_last_error(void) { return last_error.c_str(); }

const char* streamseg_levels(void) {
  static const std::string names = available_levels();
  return names.c_str();
}

const char* streamseg_level(void) {
  const char* name = "";
  guarded([&] { name = active_kernels().name; });
  return name;
}

const char* streamseg_rejected_level(void) {
  static const std::string text = rejected_level();
  return text.c_str();
}

int streamseg_select_level(const char* name) {
  return guarded([&] {
    require_pointers(name);
    select_level(name);
  });
}

int streamseg_cells(const streamseg_sizes* sizes, int64_t* cells) {
  return guarded([&] {
    require_pointers(sizes, cells);
    *cells = Sizes(kCausalConv, &sizes->map_h).grid().cells();
  });
}

#define STREAMSEG_DEFINE(suffix, T)                                                               \
  int streamseg_windowed_causal_conv##suffix(const streamseg_sizes* sizes, const T* x,            \
                                             const T* weight, const T* bias, const T* state,      \
                                             T* y, T* next_state) {                               \
    return conv<T>(sizes, x, weight, bias, state, y, next_state);                                 \
  }                                                                                               \
  int streamseg_windowed_causal_conv_backward##suffix(                                            \
      const streamseg_sizes* sizes, const T* x, const T* weight, const T* bias, const T* state,   \
      const T* grad_y, const T* grad_next_state, T* grad_x, T* grad_weight, T* grad_bias,         \
      T* grad_state) {                                                                            \
    return conv_backward<T>(sizes, x, weight, bias, state, grad_y, grad_next_state, grad_x,       \
                            grad_weight, grad_bias, grad_state);                                  \
  }                                                                                               \
  int streamseg_windowed_selective_scan##suffix(                                                  \
      const streamseg_sizes* sizes, const T* u, const T* dt, const T* dt_bias, const T* A,        \
      const T* B, const T* C, const T* skip, const T* z, const T* state, T* y, T* next_state) {   \
    return scan<T>(sizes, u, dt, dt_bias, A, B, C, skip, z, state, y, next_state);                \
  }                                                                                               \
  int streamseg_windowed_selective_scan_backward##suffix(                                         \
      const streamseg_sizes* sizes, const T* u, const T* dt, const T* dt_bias, const T* A,        \
      const T* B, const T* C, const T* skip, const T* z, const T* state, const T* grad_y,         \
      const T* grad_next_state, T* grad_u, T* grad_dt, T* grad_dt_bias, T* grad_A, T* grad_B,     \
      T* grad_C, T* grad_skip, T* grad_z, T* grad_state) {                                        \
    return scan_backward<T>(sizes, u, dt, dt_bias, A, B, C, skip, z, state, grad_y,               \
                            grad_next_state, grad_u, grad_dt, grad_dt_bias, grad_A, grad_B,       \
                            grad_C, grad_skip, grad_z, grad_state);                               \
  }

STREAMSEG_DEFINE(_f32, float)
STREAMSEG_DEFINE(_f64, double)

struct streamseg_layer {
  LayerPack pack;
};

int streamseg_layer_create(const streamseg_layer_sizes* s, const streamseg_layer_weights* w,
                           int precision, streamseg_layer** layer) {
  return guarded([&] {
    require_pointers(s, w, layer);
    require_pointers(w->norm, w->u_proj, w->z_proj, w->conv_weight, w->conv_bias, w->dt_proj,
                     w->dt_bias, w->A, w->x_proj, w->skip, w->out_proj);
    for (const auto& [axis, value] : {std::pair{Axis::kFeatures, s->features},
                                      std::pair{Axis::kChannels, s->channels},
                                      std::pair{Axis::kTaps, s->taps},
                                      std::pair{Axis::kStates, s->states},
                                      std::pair{Axis::kRank, s->rank}}) {
      require_limit(axis, value);
    }
    require_range("precision", precision, 0, 2);
    *layer = new streamseg_layer{
        LayerPack({s->features, s->channels, s->taps, s->states, s->rank},
                  {w->norm, w->u_proj, w->z_proj, w->conv_weight, w->conv_bias, w->dt_proj,
                   w->dt_bias, w->A, w->x_proj, w->skip, w->out_proj},
                  static_cast<Precision>(precision))};
  });
}

void streamseg_layer_destroy(streamseg_layer* layer) { delete layer; }

int streamseg_windowed_mamba_layer(const streamseg_layer* layer, const streamseg_sizes* s,
                                   const float* x, const float* conv_state,
                                   const float* scan_state, float* y, float* next_conv_state,
                                   float* next_scan_state) {
  return guarded([&] {
    require_pointers(layer, s, x, conv_state, scan_state, y, next_conv_state, next_scan_state);
    const LayerSizes& of = layer->pack.layer().sizes;
    const streamseg_sizes whole{s->map_h,    s->map_w,    s->window_h, s->window_w, s->offset_h,
                                s->offset_w, s->batch,    of.channels, of.taps,     s->threads};
    const WindowGrid grid = conv_grid(whole);
    require_range("map_h * map_w * features", grid.tokens() * of.features, 1, INT32_MAX);
    windowed_mamba_layer({grid, s->batch, nullptr, x, conv_state, scan_state, y, next_conv_state,
                          next_scan_state},
                         layer->pack, ThreadExecutor(s->threads));
  });
}

int streamseg_multi_head_attention(const streamseg_attention_sizes* s, int precision,
                                   const float* q, const float* k, const float* v, float* y) {
  return guarded([&] {
    require_pointers(s, q, k, v, y);
    const int64_t attributes[] = {s->heads, precision};
    Sizes sizes(kAttention, attributes);
    for (const auto& [axis, value] :
         {std::pair{Axis::kBatch, s->batch}, std::pair{Axis::kQueries, s->queries},
          std::pair{Axis::kKeys, s->keys}, std::pair{Axis::kFeatures, s->features}}) {
      sizes.bind(axis, value);
    }
    AttentionProblem problem =
        attention_problem(sizes, s->heads, static_cast<Precision>(precision));
    problem.q = q;
    problem.k = k;
    problem.v = v;
    problem.y = y;
    multi_head_attention(problem, ThreadExecutor(s->threads));
  });
}

int streamseg_upsample_argmax(const float* logits, int64_t batch, int64_t classes, int64_t height,
                              int64_t width, int64_t out_height, int64_t out_width,
                              int64_t threads, uint8_t* labels) {
  return guarded([&] {
    require_pointers(logits, labels);
    const int64_t attributes[] = {out_height, out_width};
    const int64_t shape[] = {batch, classes, height, width};
    Sizes(kUpsampleArgmax, attributes).take(kUpsampleArgmax.inputs[0], shape, 4);
    upsample_argmax({batch, classes, height, width, out_height, out_width, logits, labels, nullptr,
                     nullptr, nullptr},
                    ThreadExecutor(threads));
  });
}
