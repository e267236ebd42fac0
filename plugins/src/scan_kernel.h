// Softplus, selective scan and gate of one cell.
#pragma once

#include "blocks.h"

namespace streamseg {
namespace {

// Tokens processed together: their steps, inputs and sums stay in the first-level cache.
constexpr int kChunk = 16;

// Decays of `K` blocks of rates in one step: 2^(step rate).
template <class V, int K>
inline void decay_abreast(typename V::R step, const typename V::T* rates, typename V::R (&a)[K]) {
  if constexpr (K == V::kAbreast && K > 1) {
    V::decay_abreast(step, rates, a);
  } else {
    for (int k = 0; k < K; ++k) {
      a[k] = V::mul(step, V::load(rates + k * V::kLanes));
      // Infinity less itself, as in `exp2`, is not a number.
      if constexpr (V::kAbreast > 1) a[k] = V::max(V::set(-1e30f), a[k]);
      a[k] = V::exp2(a[k]);
    }
  }
}

template <class V>
struct ScanKernel : Blocks<V> {
  using Base = Blocks<V>;
  using typename Base::R;
  using typename Base::T;
  using Base::W;
  using Base::blocks;
  using Base::load;
  using Base::pack;
  using Base::state_offset;
  using Base::store;
  using Base::unpack;

  static void pack_decay(const T* A, int64_t channels, int64_t states, T* out) {
    pack(A, channels, states, static_cast<T>(kLog2E), out);
  }

  // Rows of a chunk: token numbers and buffers.
  struct Chunk {
    int tokens;
    int64_t token[kChunk];
    int64_t ahead[kChunk];  // tokens of the chunk after this one; this one's when it is the last
    T* dt;     // [tokens, stride]
    T* input;  // dt u
    T* sum;    // C S
    int64_t stride;
    int64_t fetched_row;     // of the chunk, where `fetch` stands
    int64_t fetched_column;
    T* steepest;  // [stride], largest rate of the states of a channel, without its sign
  };

  // Asks for a line of what `close_chunk` and the next `open_chunk` will touch, while the arithmetic
  // runs: rows of a window are far apart, and the processor does not expect them. Called for every
  // block and token of a chunk, it goes through one row after the other, which the processor follows.
  static void fetch(const ScanProblem<T>& p, int64_t map, Chunk& chunk) {
    const int64_t now = map + chunk.token[chunk.fetched_row] * p.channels + chunk.fetched_column;
    const int64_t then = map + chunk.ahead[chunk.fetched_row] * p.channels + chunk.fetched_column;
    __builtin_prefetch(p.z + now, 0, 2);
    __builtin_prefetch(p.y + now, 1, 2);
    __builtin_prefetch(p.u + then, 0, 2);
    __builtin_prefetch(p.dt + then, 0, 2);
    chunk.fetched_column += W;
    if (chunk.fetched_column == chunk.stride) {
      chunk.fetched_column = 0;
      ++chunk.fetched_row;
    }
  }

  // Advance `Group` states of one block of channels over a chunk; they stay in registers.
  template <int Group, bool First>
  static void scan_group(const ScanProblem<T>& p, const Item& item, Chunk& chunk, int64_t c,
                         int64_t n, const T* decay, T* state) {
    constexpr int K = Group % V::kAbreast == 0 ? V::kAbreast : 1;
    const int64_t batch = item.batch;
    const int64_t map = batch * p.grid.tokens() * p.channels + item.begin;
    const T* B = p.B + batch * p.grid.tokens() * p.states + n;
    const T* C = p.C + batch * p.grid.tokens() * p.states + n;
    R s[Group];
#pragma GCC unroll 32
    for (int i = 0; i < Group; ++i) s[i] = V::load(state + i * W);
    for (int t = 0; t < chunk.tokens; ++t) {
      if (First) fetch(p, map, chunk);
      const R dt = V::load(chunk.dt + t * chunk.stride + c);
      const R input = V::load(chunk.input + t * chunk.stride + c);
      const T* b = B + chunk.token[t] * p.states;
      const T* out = C + chunk.token[t] * p.states;
      R even = First ? V::set(0) : V::load(chunk.sum + t * chunk.stride + c);
      R odd = V::set(0);
#pragma GCC unroll 32
      for (int i = 0; i < Group; i += K) {
        R a[K];
        decay_abreast<V, K>(dt, decay + i * W, a);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          s[i + k] = advance<V>(s[i + k], a[k], input, V::set(b[i + k]));
        }
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          R& sum = k % 2 == 0 ? even : odd;
          sum = V::fma(s[i + k], V::set(out[i + k]), sum);
        }
      }
      V::store(chunk.sum + t * chunk.stride + c, V::add(even, odd));
    }
#pragma GCC unroll 32
    for (int i = 0; i < Group; ++i) V::store(state + i * W, s[i]);
  }

  template <int Group>
  static void scan_groups(const ScanProblem<T>& p, const Item& item, Chunk& chunk, int64_t c,
                          int64_t& n, const T* decay, T* state) {
    for (; p.states - n >= Group; n += Group) {
      if (n == 0) {
        scan_group<Group, true>(p, item, chunk, c, n, decay, state);
      } else {
        scan_group<Group, false>(p, item, chunk, c, n, decay + n * W, state + n * W);
      }
    }
  }

  // Whether the products of a block's steps and rates suit `decay_abreast`.
  static bool can_group(const Chunk& chunk, int64_t c) {
    if constexpr (V::kAbreast > 1) {
      R step = V::load(chunk.dt + c);
      for (int t = 1; t < chunk.tokens; ++t) step = V::max(step, V::load(chunk.dt + t * chunk.stride + c));
      return V::can_decay_abreast(V::mul(step, V::load(chunk.steepest + c)));
    }
    return true;
  }

  static void scan_block(const ScanProblem<T>& p, const Item& item, Chunk& chunk, int64_t c,
                         const T* decay, T* state) {
    int64_t n = 0;
    if (!can_group(chunk, c)) return scan_groups<1>(p, item, chunk, c, n, decay, state);
    scan_groups<V::kGroup>(p, item, chunk, c, n, decay, state);
    scan_groups<4>(p, item, chunk, c, n, decay, state);
    scan_groups<1>(p, item, chunk, c, n, decay, state);
  }

  static void open_chunk(const ScanProblem<T>& p, const Item& item, Chunk& chunk) {
    const int64_t count = item.end - item.begin;
    const int64_t map = item.batch * p.grid.tokens() * p.channels + item.begin;
    for (int t = 0; t < chunk.tokens; ++t) {
      const T* dt_row = p.dt + map + chunk.token[t] * p.channels;
      const T* u_row = p.u + map + chunk.token[t] * p.channels;
      for (int64_t c = 0; c < count; c += W) {
        const int64_t left = count - c;
        const R dt = softplus<V>(V::add(load(dt_row + c, left),
                                        load(p.dt_bias + item.begin + c, left)));
        V::store(chunk.dt + t * chunk.stride + c, dt);
        V::store(chunk.input + t * chunk.stride + c, V::mul(dt, load(u_row + c, left)));
      }
    }
  }

  static void close_chunk(const ScanProblem<T>& p, const Item& item, const Chunk& chunk) {
    const int64_t count = item.end - item.begin;
    const int64_t map = item.batch * p.grid.tokens() * p.channels + item.begin;
    for (int t = 0; t < chunk.tokens; ++t) {
      const int64_t row = map + chunk.token[t] * p.channels;
      for (int64_t c = 0; c < count; c += W) {
        const int64_t left = count - c;
        const R y = gate<V>(V::load(chunk.sum + t * chunk.stride + c),
                            load(p.skip + item.begin + c, left), load(p.u + row + c, left),
                            load(p.z + row + c, left));
        store(p.y + row + c, y, left);
      }
    }
  }

  // Memory of a scan besides the state, for this many channels.
  static size_t buffer_bytes(int64_t channels) {
    return 3 * Arrays<T>::bytes(kChunk * blocks(channels) * W) +
           Arrays<T>::bytes(blocks(channels) * W);
  }

  // Numbers of a packed state.
  static int64_t state_size(int64_t channels, int64_t states) {
    return blocks(channels) * W * states;
  }

  // A chunk's buffers, in memory of `buffer_bytes`, and the steepest rates of these channels.
  static Chunk open_buffers(const T* decay, int64_t channels, int64_t states, void* memory) {
    Arrays<T> arrays(memory);
    Chunk chunk;
    chunk.stride = blocks(channels) * W;
    chunk.dt = arrays.take(kChunk * chunk.stride);
    chunk.input = arrays.take(kChunk * chunk.stride);
    chunk.sum = arrays.take(kChunk * chunk.stride);
    chunk.steepest = arrays.take(chunk.stride);
    for (int64_t c = 0; c < channels; c += W) {
      R rate = V::set(0);
      for (int64_t n = 0; n < states; ++n) {
        rate = V::max(rate, V::abs(V::load(decay + (c * states + n * W))));
      }
      V::store(chunk.steepest + c, rate);
    }
    return chunk;
  }

  // The tokens of a cell, from and to its packed state.
  static void scan_cell(const ScanProblem<T>& p, const Item& item, T* state, Chunk& chunk) {
    const int64_t count = item.end - item.begin;
    const Cell cell = p.grid.cell(item.cell);
    const T* decay = p.decay + item.begin * p.states;
    TokenCursor cursor(cell, p.grid.cols.extent);
    const int64_t length = cell.tokens();
    for (int64_t t = 0; t < length; t += kChunk) {
      chunk.tokens = static_cast<int>(length - t < kChunk ? length - t : kChunk);
      const int64_t after = length - t - chunk.tokens;
      for (int i = 0; i < chunk.tokens; ++i) chunk.token[i] = t == 0 ? cursor.next() : chunk.ahead[i];
      for (int i = 0; i < chunk.tokens; ++i) {
        chunk.ahead[i] = i < after ? cursor.next() : chunk.token[i];
      }
      open_chunk(p, item, chunk);
      chunk.fetched_row = 0;
      chunk.fetched_column = 0;
      for (int64_t c = 0; c < count; c += W) {
        scan_block(p, item, chunk, c, decay + c * p.states, state + c * p.states);
      }
      close_chunk(p, item, chunk);
    }
  }

  static void run(const ScanProblem<T>& p, const Item& item, Scratch& scratch) {
    const int64_t count = item.end - item.begin;
    const size_t bytes = buffer_bytes(count);
    char* memory = static_cast<char*>(
        scratch.reserve(bytes + Arrays<T>::bytes(state_size(count, p.states))));
    T* state = reinterpret_cast<T*>(memory + bytes);
    const int64_t offset = state_offset(p, item) * p.states;
    pack(p.state + offset, count, p.states, T(1), state);
    Chunk chunk = open_buffers(p.decay + item.begin * p.states, count, p.states, memory);
    scan_cell(p, item, state, chunk);
    unpack(state, count, p.states, p.next_state + offset);
  }
};

}  // namespace
}  // namespace streamseg
