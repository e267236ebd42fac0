#include "operators.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace streamseg {
namespace {

constexpr int64_t kScanChannels = 512;  // of one piece of work
constexpr int64_t kArgmaxRows = 8;      // of one piece of work
constexpr int64_t kIntegerDepth = 65536;  // times 255 x 127 stays below 2^31

Scratch& thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

void require(bool holds, const std::string& message) {
  if (!holds) throw InvalidArgument(message);
}

template <class T>
const KernelTable<T>& kernels();

template <>
const KernelTable<float>& kernels<float>() {
  return active_kernels();
}

template <>
const KernelTable<double>& kernels<double>() {
  return *scalar_kernels_f64();
}

template <class Run>
struct Queue {
  const std::vector<Item>* items;
  const Run* run;
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};

  static void drain(void* context, size_t) {
    auto& queue = *static_cast<Queue*>(context);
    try {
      for (size_t i; (i = queue.next.fetch_add(1)) < queue.items->size();) {
        (*queue.run)((*queue.items)[i]);
      }
    } catch (const std::bad_alloc&) {
      queue.failed = true;
    }
  }
};

// Every thread takes the next item until none are left. Items do not share outputs, so the result
// does not depend on which thread takes which item.
template <class Run>
void run_items(const std::vector<Item>& items, const Executor& executor, const Run& run) {
  Queue<Run> queue;
  queue.items = &items;
  queue.run = &run;
  const int64_t tasks = std::min<int64_t>(executor.width(), static_cast<int64_t>(items.size()));
  executor.run(tasks, Queue<Run>::drain, &queue);
  if (queue.failed) throw std::bad_alloc();
}

// All cells, longest first, each cut into groups of `group` channels.
std::vector<Item> cell_items(const WindowGrid& grid, int64_t batch, int64_t channels,
                             int64_t group) {
  std::vector<Item> items;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t cell = 0; cell < grid.cells(); ++cell) {
      for (int64_t c = 0; c < channels; c += group) {
        items.push_back({b, cell, c, std::min(c + group, channels)});
      }
    }
  }
  std::stable_sort(items.begin(), items.end(), [&](const Item& a, const Item& b) {
    return grid.cell(a.cell).tokens() > grid.cell(b.cell).tokens();
  });
  return items;
}

// Consecutive cells with up to `most` tokens together, largest first; a larger cell is alone.
std::vector<Item> group_items(const WindowGrid& grid, int64_t batch, int64_t most) {
  struct Group {
    int64_t tokens;
    Item item;
  };
  std::vector<Group> groups;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t cell = 0; cell < grid.cells(); ++cell) {
      const int64_t tokens = grid.cell(cell).tokens();
      if (cell == 0 || groups.back().tokens + tokens > most) {
        groups.push_back({0, {b, 0, cell, cell}});
      }
      groups.back().tokens += tokens;
      groups.back().item.end = cell + 1;
    }
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return a.tokens > b.tokens; });
  std::vector<Item> items;
  for (const Group& group : groups) items.push_back(group.item);
  return items;
}

// Blocks of tokens of all heads.
std::vector<Item> head_items(const AttentionProblem& p, int64_t tokens, int64_t block) {
  std::vector<Item> items;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t head = 0; head < p.heads; ++head) {
      for (int64_t t = 0; t < tokens; t += block) {
        items.push_back({b, head, t, std::min(t + block, tokens)});
      }
    }
  }
  return items;
}

// Channels per piece of work, so that even one cell keeps every thread busy.
int64_t split_channels(int64_t pieces, int64_t channels, int64_t most, int64_t lanes,
                       const Executor& executor) {
  const int64_t blocks = (channels + lanes - 1) / lanes;
  const int64_t wanted = std::max<int64_t>(1, (4 * executor.width() + pieces - 1) / pieces);
  const int64_t group = std::max<int64_t>(1, blocks / wanted) * lanes;
  return executor.width() == 1 ? most : std::min(most, group);
}

template <class T>
void check_decay(const T* A, int64_t channels, int64_t states) {
  for (int64_t i = 0; i < channels * states; ++i) {
    require(!(A[i] > 0), "A[" + std::to_string(i / states) + ", " + std::to_string(i % states) +
                             "] is " + std::to_string(A[i]) +
                             ", expected at most 0: pass -exp(A_log)");
  }
}

// Packed into `memory`, which must outlive the problem; aligned, unlike a vector's.
template <class T>
void pack_decay(ScanProblem<T>& p, Scratch& memory) {
  const auto& table = kernels<T>();
  const int64_t padded = (p.channels + table.lanes - 1) / table.lanes * table.lanes;
  T* decay = static_cast<T*>(memory.reserve(static_cast<size_t>(padded * p.states) * sizeof(T)));
  table.pack_decay(p.A, p.channels, p.states, decay);
  p.decay = decay;
}

// total[i] = sum over parts of parts[part * size + i], always in the same order.
template <class T>
void sum_parts(const std::vector<T>& parts, int64_t size, T* total) {
  std::fill(total, total + size, T(0));
  for (size_t at = 0; at < parts.size(); at += static_cast<size_t>(size)) {
    for (int64_t i = 0; i < size; ++i) total[i] += parts[at + static_cast<size_t>(i)];
  }
}

}  // namespace

Scratch::~Scratch() { std::free(memory_); }

void* Scratch::reserve(size_t bytes) {
  if (bytes > size_) {
    std::free(memory_);
    size_ = (bytes + 4095) / 4096 * 4096;
    memory_ = std::aligned_alloc(64, size_);
    if (memory_ == nullptr) {
      size_ = 0;
      throw std::bad_alloc();
    }
  }
  return memory_;
}

ThreadExecutor::ThreadExecutor(int64_t threads)
    : threads_(threads > 0 ? threads
                           : std::max<int64_t>(1, std::thread::hardware_concurrency())) {
  require_range("threads", threads, 0, 1024);
}

void ThreadExecutor::run(int64_t total, void (*task)(void*, size_t), void* context) const {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(std::max<int64_t>(total, 1)));
  int64_t started = 1;
  try {
    for (; started < total; ++started) {
      threads.emplace_back(task, context, static_cast<size_t>(started));
    }
  } catch (const std::exception&) {
    // Out of threads, or of memory for one: the caller and the threads that started do all the
    // work.
  }
  task(context, 0);
  for (int64_t i = started; i < total; ++i) task(context, static_cast<size_t>(i));
  for (auto& thread : threads) thread.join();
}

template <class T>
void windowed_causal_conv(ConvProblem<T> p, const Executor& executor) {
  const auto& table = kernels<T>();
  const int64_t group = split_channels(p.grid.cells() * p.batch, p.channels, p.channels,
                                       table.lanes, executor);
  run_items(cell_items(p.grid, p.batch, p.channels, group), executor,
            [&](const Item& item) { table.conv(p, item, thread_scratch()); });
}

template <class T>
void windowed_causal_conv_backward(ConvProblem<T> p, ConvGradients<T> g, T* weight, T* bias,
                                   const Executor& executor) {
  const auto parts = static_cast<size_t>(p.batch * p.grid.cells());
  std::vector<T> weights(parts * static_cast<size_t>(p.channels * p.taps));
  std::vector<T> biases(parts * static_cast<size_t>(p.channels));
  g.weight = weights.data();
  g.bias = biases.data();
  const auto& table = kernels<T>();
  run_items(cell_items(p.grid, p.batch, p.channels, p.channels), executor,
            [&](const Item& item) { table.conv_backward(p, g, item, thread_scratch()); });
  sum_parts(weights, p.channels * p.taps, weight);
  sum_parts(biases, p.channels, bias);
}

template <class T>
void windowed_selective_scan(ScanProblem<T> p, const Executor& executor) {
  check_decay(p.A, p.channels, p.states);
  Scratch decay;
  pack_decay(p, decay);
  const auto& table = kernels<T>();
  const int64_t group = split_channels(p.grid.cells() * p.batch, p.channels, kScanChannels,
                                       table.lanes, executor);
  run_items(cell_items(p.grid, p.batch, p.channels, group), executor,
            [&](const Item& item) { table.scan(p, item, thread_scratch()); });
}

template <class T>
void windowed_selective_scan_backward(ScanProblem<T> p, ScanGradients<T> g, T* dt_bias, T* A,
                                      T* skip, const Executor& executor) {
  check_decay(p.A, p.channels, p.states);
  Scratch decay;
  pack_decay(p, decay);
  const auto parts = static_cast<size_t>(p.batch * p.grid.cells());
  std::vector<T> biases(parts * static_cast<size_t>(p.channels));
  std::vector<T> skips(parts * static_cast<size_t>(p.channels));
  std::vector<T> decays(parts * static_cast<size_t>(p.channels * p.states));
  g.dt_bias = biases.data();
  g.skip = skips.data();
  g.A = decays.data();
  const auto& table = kernels<T>();
  // B and C are shared by all channels, so a cell's channels are one piece of work.
  run_items(cell_items(p.grid, p.batch, p.channels, p.channels), executor,
            [&](const Item& item) { table.scan_backward(p, g, item, thread_scratch()); });
  sum_parts(biases, p.channels, dt_bias);
  sum_parts(skips, p.channels, skip);
  sum_parts(decays, p.channels * p.states, A);
}

LayerPack::LayerPack(const LayerSizes& s, const LayerWeights& w, Precision precision)
    : kernels_(&active_kernels()) {
  check_decay(w.A, s.channels, s.states);
  if (precision == Precision::kInt8) {
    require(std::max(s.channels, s.features) <= kIntegerDepth,
            "int8 layers take at most " + std::to_string(kIntegerDepth) +
                " channels, whose products a 32-bit sum holds: export with another precision");
  }
  // The small products feed the step size and the scan: rounding them to 8 bits loses accuracy and
  // saves little time.
  const Precision small = precision == Precision::kInt8 ? kernels_->small : precision;
  layer_.sizes = s;
  layer_.u_proj = pack(w.u_proj, s.features, s.channels, precision);
  layer_.z_proj = pack(w.z_proj, s.features, s.channels, precision);
  layer_.x_proj = pack(w.x_proj, s.channels, s.projections(), small);
  layer_.dt_proj = pack(w.dt_proj, s.rank, s.channels, small);
  layer_.out_proj = pack(w.out_proj, s.channels, s.features, precision);
  LayerWeights& kept = layer_.weights;
  kept.norm = keep(w.norm, s.features);
  std::vector<float> taps(static_cast<size_t>(s.channels * s.taps));
  for (int64_t c = 0; c < s.channels; ++c) {
    for (int64_t k = 0; k < s.taps; ++k) {
      taps[static_cast<size_t>(k * s.channels + c)] = w.conv_weight[c * s.taps + k];
    }
  }
  kept.conv_weight = keep(taps.data(), s.channels * s.taps);
  kept.conv_bias = keep(w.conv_bias, s.channels);
  kept.dt_bias = keep(w.dt_bias, s.channels);
  kept.A = keep(w.A, s.channels * s.states);
  kept.skip = keep(w.skip, s.channels);
  const int64_t padded = (s.channels + kernels_->lanes - 1) / kernels_->lanes * kernels_->lanes;
  auto* decay = static_cast<float*>(
      memory_.emplace_back().reserve(static_cast<size_t>(padded * s.states) * sizeof(float)));
  kernels_->pack_decay(w.A, s.channels, s.states, decay);
  layer_.decay = decay;
}

const float* LayerPack::keep(const float* values, int64_t count) {
  const auto bytes = static_cast<size_t>(count) * sizeof(float);
  auto* copy = static_cast<float*>(memory_.emplace_back().reserve(bytes));
  std::copy(values, values + count, copy);
  return copy;
}

Packed LayerPack::pack(const float* weight, int64_t depth, int64_t columns, Precision precision) {
  const auto padded = static_cast<size_t>(kernels_->padded_columns(columns));
  void* panels = memory_.emplace_back().reserve(kernels_->packed_bytes(depth, columns, precision));
  auto* scale = static_cast<float*>(memory_.emplace_back().reserve(padded * sizeof(float)));
  auto* sums = static_cast<int32_t*>(memory_.emplace_back().reserve(padded * sizeof(int32_t)));
  kernels_->pack_product(weight, depth, columns, precision, panels, scale, sums);
  return {depth, columns, panels, scale, sums, precision};
}

void windowed_mamba_layer(LayerProblem p, const LayerPack& pack, const Executor& executor) {
  p.layer = &pack.layer();
  const auto& table = pack.kernels();
  const int64_t share = p.batch * p.grid.tokens() / (4 * executor.width());
  run_items(group_items(p.grid, p.batch, std::min(kLayerChunk, share)), executor,
            [&](const Item& item) { table.layer(p, item, thread_scratch()); });
}

AttentionProblem attention_problem(const Sizes& sizes, int64_t heads, Precision precision) {
  const int64_t features = sizes[Axis::kFeatures];
  require(features % heads == 0, "features are " + std::to_string(features) +
                                     ", expected a multiple of heads (" + std::to_string(heads) +
                                     ")");
  return {sizes[Axis::kBatch], heads,     sizes[Axis::kQueries], sizes[Axis::kKeys],
          features / heads,    precision, nullptr,               nullptr,
          nullptr,             nullptr,   nullptr};
}

void multi_head_attention(AttentionProblem p, const Executor& executor) {
  const auto& table = active_kernels();
  Scratch packed;
  p.packed = static_cast<char*>(packed.reserve(table.attention_bytes(p)));
  run_items(head_items(p, p.keys, kKeyBlock), executor,
            [&](const Item& item) { table.pack_attention(p, item, thread_scratch()); });
  run_items(head_items(p, p.queries, kQueryBlock), executor,
            [&](const Item& item) { table.attention(p, item, thread_scratch()); });
}

void upsample_argmax(ArgmaxProblem p, const Executor& executor) {
  const auto& table = active_kernels();
  const auto padded =
      static_cast<size_t>((p.out_width + table.lanes - 1) / table.lanes * table.lanes);
  std::vector<int32_t> left(padded);
  std::vector<int32_t> right(padded);
  std::vector<float> fraction(padded);
  const double scale = static_cast<double>(p.width) / static_cast<double>(p.out_width);
  for (size_t i = 0; i < padded; ++i) {
    const auto x = std::min<double>(static_cast<double>(i), static_cast<double>(p.out_width - 1));
    const double source = std::max(0.0, (x + 0.5) * scale - 0.5);
    left[i] = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(source), p.width - 1));
    right[i] = static_cast<int32_t>(std::min<int64_t>(left[i] + 1, p.width - 1));
    fraction[i] = static_cast<float>(source - left[i]);
  }
  p.left = left.data();
  p.right = right.data();
  p.fraction = fraction.data();
  std::vector<Item> items;
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t y = 0; y < p.out_height; y += kArgmaxRows) {
      items.push_back({b, 0, y, std::min(y + kArgmaxRows, p.out_height)});
    }
  }
  run_items(items, executor,
            [&](const Item& item) { table.upsample_argmax(p, item, thread_scratch()); });
}

template void windowed_causal_conv(ConvProblem<float>, const Executor&);
template void windowed_causal_conv(ConvProblem<double>, const Executor&);
template void windowed_causal_conv_backward(ConvProblem<float>, ConvGradients<float>, float*,
                                            float*, const Executor&);
template void windowed_causal_conv_backward(ConvProblem<double>, ConvGradients<double>, double*,
                                            double*, const Executor&);
template void windowed_selective_scan(ScanProblem<float>, const Executor&);
template void windowed_selective_scan(ScanProblem<double>, const Executor&);
template void windowed_selective_scan_backward(ScanProblem<float>, ScanGradients<float>, float*,
                                               float*, float*, const Executor&);
template void windowed_selective_scan_backward(ScanProblem<double>, ScanGradients<double>, double*,
                                               double*, double*, const Executor&);

}  // namespace streamseg
