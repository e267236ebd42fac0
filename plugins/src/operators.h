// The operators on whole maps: selects kernels and splits the work into pieces. `Sizes` in ops.h
// has already checked the sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "levels.h"
#include "ops.h"
#include "problem.h"

namespace streamseg {

// Runs task(context, i) for i in [0, total), in any order, possibly in parallel, and returns when
// all are done.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual int64_t width() const = 0;
  virtual void run(int64_t total, void (*task)(void*, size_t), void* context) const = 0;
};

// Starts threads for one call: `threads` includes the caller; 0 uses one per core. If the system
// starts fewer, those do the work.
class ThreadExecutor : public Executor {
 public:
  explicit ThreadExecutor(int64_t threads);
  int64_t width() const override { return threads_; }
  void run(int64_t total, void (*task)(void*, size_t), void* context) const override;

 private:
  int64_t threads_;
};

template <class T>
void windowed_causal_conv(ConvProblem<T> problem, const Executor& executor);

template <class T>
void windowed_causal_conv_backward(ConvProblem<T> problem, ConvGradients<T> gradients, T* weight,
                                   T* bias, const Executor& executor);

template <class T>
void windowed_selective_scan(ScanProblem<T> problem, const Executor& executor);

template <class T>
void windowed_selective_scan_backward(ScanProblem<T> problem, ScanGradients<T> gradients,
                                      T* dt_bias, T* A, T* skip, const Executor& executor);

// A layer's weights, checked, copied and packed for the instruction set in use at that time.
class LayerPack {
 public:
  LayerPack(const LayerPack&) = delete;
  LayerPack& operator=(const LayerPack&) = delete;
  LayerPack(const LayerSizes& sizes, const LayerWeights& weights, Precision precision);
  const PackedLayer& layer() const { return layer_; }
  const KernelTable<float>& kernels() const { return *kernels_; }

 private:
  const float* keep(const float* values, int64_t count);
  Packed pack(const float* weight, int64_t depth, int64_t columns, Precision precision);

  const KernelTable<float>* kernels_;
  PackedLayer layer_{};
  std::deque<Scratch> memory_;
};

// `problem.layer` is set here.
void windowed_mamba_layer(LayerProblem problem, const LayerPack& pack, const Executor& executor);

// `sizes` of kAttention, checked; `heads` must divide the features.
AttentionProblem attention_problem(const Sizes& sizes, int64_t heads, Precision precision);

// `problem.packed` is set here.
void multi_head_attention(AttentionProblem problem, const Executor& executor);

void upsample_argmax(ArgmaxProblem problem, const Executor& executor);

}  // namespace streamseg
