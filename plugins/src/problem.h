// The arguments of one call (sizes and pointers), and the table of kernels of one instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"
#include "layer.h"
#include "windows.h"

namespace streamseg {

// Maps are [batch, tokens, channels], state [batch, cells, channels, taps - 1], oldest first.
template <class T>
struct ConvProblem {
  WindowGrid grid;
  int64_t batch;
  int64_t channels;
  int64_t taps;
  const T* x;
  const T* weight;
  const T* bias;
  const T* state;
  T* y;
  T* next_state;
};

// Null if the incoming gradient is zero.
template <class T>
struct ConvGradients {
  const T* y;
  const T* next_state;
  T* x;
  T* state;
  T* weight;  // one [channels, taps] block for every batch row and cell
  T* bias;    // one [channels] block for every batch row and cell
};

// Maps are [batch, tokens, channels or states], state [batch, cells, channels, states].
template <class T>
struct ScanProblem {
  WindowGrid grid;
  int64_t batch;
  int64_t channels;
  int64_t states;
  const T* u;
  const T* dt;
  const T* dt_bias;
  const T* A;
  const T* B;
  const T* C;
  const T* skip;
  const T* z;
  const T* state;
  T* y;
  T* next_state;
  const T* decay;  // A log2(e), packed by `pack_decay`
};

template <class T>
struct ScanGradients {
  const T* y;
  const T* next_state;
  T* u;
  T* dt;
  T* B;
  T* C;
  T* z;
  T* state;
  T* dt_bias;  // these three: one block for every batch row and cell
  T* A;
  T* skip;
};

// Source column and weight of every output column; `left` and `right` have `padded` entries.
struct ArgmaxProblem {
  int64_t batch;
  int64_t classes;
  int64_t height;
  int64_t width;
  int64_t out_height;
  int64_t out_width;
  const float* logits;
  uint8_t* labels;
  const int32_t* left;
  const int32_t* right;
  const float* fraction;
};

// A piece of work: channels [begin, end) of one cell, cells [begin, end) of a layer, rows [begin, end)
// of one image, or tokens [begin, end) of one head, whose number is `cell`.
struct Item {
  int64_t batch;
  int64_t cell;
  int64_t begin;
  int64_t end;
};

// Memory that a thread keeps between calls. Contents are lost when it grows.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();
  // At least `bytes`, aligned to 64.
  void* reserve(size_t bytes);

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

template <class T>
struct KernelTable {
  const char* name;
  int64_t lanes;
  void (*conv)(const ConvProblem<T>&, const Item&, Scratch&);
  void (*conv_backward)(const ConvProblem<T>&, const ConvGradients<T>&, const Item&, Scratch&);
  // out: round_up(channels, lanes) * states numbers.
  void (*pack_decay)(const T* A, int64_t channels, int64_t states, T* out);
  void (*scan)(const ScanProblem<T>&, const Item&, Scratch&);
  void (*scan_backward)(const ScanProblem<T>&, const ScanGradients<T>&, const Item&, Scratch&);
  void (*upsample_argmax)(const ArgmaxProblem&, const Item&, Scratch&);
  // Those below are null for double.
  void (*layer)(const LayerProblem&, const Item&, Scratch&);
  size_t (*packed_bytes)(int64_t depth, int64_t columns, Precision precision);
  int64_t (*padded_columns)(int64_t columns);
  void (*pack_product)(const float* weight, int64_t depth, int64_t columns, Precision precision,
                       void* panels, float* scale, int32_t* sums);
  size_t (*attention_bytes)(const AttentionProblem&);  // of `packed`
  void (*pack_attention)(const AttentionProblem&, const Item&, Scratch&);
  void (*attention)(const AttentionProblem&, const Item&, Scratch&);
  // Activations: numbers of a row, its conversion (which returns its scale), and the product.
  int64_t (*row_words)(int64_t depth, Precision precision);
  float (*convert_row)(const float* x, int64_t depth, Precision precision, float* out);
  void (*multiply)(const float* rows, const float* row_scale, int64_t count, const Packed& weight,
                   float* c, int64_t stride);
  Precision small;  // of the small products of int8 layers
};

const KernelTable<float>* scalar_kernels();
const KernelTable<double>* scalar_kernels_f64();
const KernelTable<float>* avx2_kernels();
const KernelTable<float>* avx2vnni_kernels();
const KernelTable<float>* avx512_kernels();
const KernelTable<float>* avx512vnni_kernels();
const KernelTable<float>* avx512bf16_kernels();
const KernelTable<float>* avx512amx_kernels();
const KernelTable<float>* neon_kernels();
const KernelTable<float>* neondot_kernels();
const KernelTable<float>* neoni8mm_kernels();
const KernelTable<float>* neonbf16_kernels();

// Whether products of bfloat16 numbers beat those of float32 on this processor, which must support
// the instructions.
bool avx512bf16_is_fast();
bool neonbf16_is_fast();

}  // namespace streamseg
