// The CPU kernels, written over a lane type (lanes_*.h) and compiled once for each instruction set.
//
// Everything here has internal linkage, and nothing of the standard library is called: a shared
// inline function compiled with wide instructions could be the copy that the linker keeps for all.
#pragma once

#include "problem.h"
#include "recurrence.h"

namespace streamseg {
namespace {

// Tokens handled in one go: their steps, inputs and sums stay in the first-level cache.
constexpr int kChunk = 16;
constexpr int64_t kMaxTaps = 16;

// Hands out the tokens of a cell in order.
class TokenCursor {
 public:
  TokenCursor(const Cell& cell, int32_t map_w)
      : width_(cell.width), step_(map_w - cell.width),
        token_(static_cast<int64_t>(cell.top) * map_w + cell.left), left_(cell.width) {}

  int64_t next() {
    const int64_t token = token_++;
    if (--left_ == 0) {
      left_ = width_;
      token_ += step_;
    }
    return token;
  }

 private:
  int32_t width_;
  int32_t step_;
  int64_t token_;
  int32_t left_;
};

// Cuts one reservation into arrays of numbers, each aligned to 64 bytes.
template <class T>
class Arrays {
 public:
  explicit Arrays(void* memory) : next_(static_cast<char*>(memory)) {}
  static size_t bytes(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }
  T* take(int64_t count) {
    T* array = reinterpret_cast<T*>(next_);
    next_ += bytes(count);
    return array;
  }

 private:
  char* next_;
};

// 2^t for `K` registers at once.
template <class V, int K>
inline void exp2_abreast(typename V::R (&t)[K]) {
  if constexpr (K == V::kAbreast && K > 1) {
    V::exp2_abreast(t);
  } else {
    for (int k = 0; k < K; ++k) t[k] = V::exp2(t[k]);
  }
}

template <class V>
struct Kernels {
  using T = typename V::T;
  using R = typename V::R;
  static constexpr int W = V::kLanes;

  static int64_t blocks(int64_t channels) { return (channels + W - 1) / W; }

  static R load(const T* p, int64_t left) {
    return left >= W ? V::load(p) : V::load_part(p, static_cast<int>(left));
  }
  static void store(T* p, R x, int64_t left) {
    if (left >= W) {
      V::store(p, x);
    } else {
      V::store_part(p, x, static_cast<int>(left));
    }
  }

  // [channels, depth] to blocks of [depth, lanes]; lanes past the last channel hold 0.
  static void pack(const T* from, int64_t channels, int64_t depth, T scale, T* to) {
    for (int64_t c0 = 0; c0 < channels; c0 += W, to += depth * W) {
      for (int64_t lane = 0; lane < W; ++lane) {
        const T* row = from + (c0 + lane) * depth;
        for (int64_t n = 0; n < depth; ++n) {
          to[n * W + lane] = c0 + lane < channels ? row[n] * scale : T(0);
        }
      }
    }
  }

  static void unpack(const T* from, int64_t channels, int64_t depth, T* to) {
    for (int64_t c0 = 0; c0 < channels; c0 += W, from += depth * W) {
      for (int64_t lane = 0; lane < W && c0 + lane < channels; ++lane) {
        T* row = to + (c0 + lane) * depth;
        for (int64_t n = 0; n < depth; ++n) row[n] = from[n * W + lane];
      }
    }
  }

  // --- causal convolution ---------------------------------------------------------------------

  // The sequence of a cell as pointers to its rows: taps - 1 rows of old state, then the tokens.
  struct Sequence {
    int64_t length;
    const T** rows;
    T* weight;  // [taps, channels of the item]
    T* extra;   // what the caller asked for on top
  };

  static Sequence open_sequence(const ConvProblem<T>& p, const Item& item, int64_t extra,
                                Scratch& scratch) {
    const Cell cell = p.grid.cell(item.cell);
    const int64_t length = cell.tokens();
    const int64_t count = item.end - item.begin;
    const int64_t history = p.taps - 1;
    const size_t row_bytes = (static_cast<size_t>(history + length) * sizeof(T*) + 63) / 64 * 64;
    void* memory =
        scratch.reserve(row_bytes + Arrays<T>::bytes(p.taps * count) +
                        Arrays<T>::bytes(history * count) + Arrays<T>::bytes(extra));
    const T** rows = static_cast<const T**>(memory);
    Arrays<T> arrays(static_cast<char*>(memory) + row_bytes);
    T* weight = arrays.take(p.taps * count);
    T* old = arrays.take(history * count);
    const T* state = p.state + state_offset(p, item) * history;
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t k = 0; k < p.taps; ++k) {
        weight[k * count + c] = p.weight[(item.begin + c) * p.taps + k];
      }
      for (int64_t k = 0; k < history; ++k) old[k * count + c] = state[c * history + k];
    }
    for (int64_t k = 0; k < history; ++k) rows[k] = old + k * count;
    TokenCursor cursor(cell, p.grid.cols.extent);
    const T* map = p.x + item.batch * p.grid.tokens() * p.channels + item.begin;
    for (int64_t t = 0; t < length; ++t) rows[history + t] = map + cursor.next() * p.channels;
    return {length, rows, weight, arrays.take(extra)};
  }

  template <class Problem>
  static int64_t state_offset(const Problem& p, const Item& item) {
    return (item.batch * p.grid.cells() + item.cell) * p.channels + item.begin;
  }

  template <int Taps>
  static R convolve(const T* const* rows, int64_t taps, const T* weight, int64_t count, R sum,
                    int64_t c) {
    const int64_t number = Taps > 0 ? Taps : taps;
    for (int64_t k = 0; k < number; ++k) {
      sum = V::fma(load(weight + k * count + c, count - c), load(rows[k] + c, count - c), sum);
    }
    return sum;
  }

  template <int Taps>
  static void conv_rows(const ConvProblem<T>& p, const Item& item, const Sequence& sequence) {
    const int64_t count = item.end - item.begin;
    const int64_t full = count / W * W;
    const T* bias = p.bias + item.begin;
    TokenCursor cursor(p.grid.cell(item.cell), p.grid.cols.extent);
    T* map = p.y + item.batch * p.grid.tokens() * p.channels + item.begin;
    const int64_t number = Taps > 0 ? Taps : p.taps;
    for (int64_t t = 0; t < sequence.length; ++t) {
      T* out = map + cursor.next() * p.channels;
      const T* const* rows = sequence.rows + t;
      for (int64_t c = 0; c < full; c += W) {
        R sum = V::load(bias + c);
        for (int64_t k = 0; k < number; ++k) {
          sum = V::fma(V::load(sequence.weight + k * count + c), V::load(rows[k] + c), sum);
        }
        V::store(out + c, silu<V>(sum));
      }
      if (full < count) {
        const R sum = convolve<Taps>(rows, p.taps, sequence.weight, count,
                                     load(bias + full, count - full), full);
        store(out + full, silu<V>(sum), count - full);
      }
    }
  }

  static void conv(const ConvProblem<T>& p, const Item& item, Scratch& scratch) {
    const Sequence sequence = open_sequence(p, item, 0, scratch);
    if (p.taps == 4) {
      conv_rows<4>(p, item, sequence);
    } else {
      conv_rows<0>(p, item, sequence);
    }
    const int64_t history = p.taps - 1;
    T* next = p.next_state + state_offset(p, item) * history;
    for (int64_t c = 0; c < item.end - item.begin; ++c) {
      for (int64_t k = 0; k < history; ++k) {
        next[c * history + k] = sequence.rows[sequence.length + k][c];
      }
    }
  }

  static void conv_backward(const ConvProblem<T>& p, const ConvGradients<T>& g, const Item& item,
                            Scratch& scratch) {
    const int64_t count = item.end - item.begin;
    const int64_t history = p.taps - 1;
    const Cell cell = p.grid.cell(item.cell);
    // Gradient before SiLU for one block of channels, with taps - 1 zeros at either end.
    const int64_t padded = cell.tokens() + 2 * history;
    const Sequence sequence = open_sequence(p, item, padded * W, scratch);
    T* inner = sequence.extra;
    const int64_t map = item.batch * p.grid.tokens() * p.channels + item.begin;
    const int64_t partial = item.batch * p.grid.cells() + item.cell;
    T* grad_weight = g.weight + (partial * p.channels + item.begin) * p.taps;
    T* grad_bias = g.bias + partial * p.channels + item.begin;
    const int64_t offset = state_offset(p, item) * history;
    for (int64_t c = 0; c < count; c += W) {
      const int64_t left = count - c;
      const int64_t lanes = left < W ? left : W;
      R sum_bias = V::set(0);
      R sum_weight[kMaxTaps];
      for (int64_t k = 0; k < p.taps; ++k) sum_weight[k] = V::set(0);
      for (int64_t k = 0; k < history; ++k) {
        V::store(inner + k * W, V::set(0));
        V::store(inner + (history + sequence.length + k) * W, V::set(0));
      }
      TokenCursor cursor(cell, p.grid.cols.extent);
      for (int64_t t = 0; t < sequence.length; ++t) {
        const R x = convolve<0>(sequence.rows + t, p.taps, sequence.weight, count,
                                load(p.bias + item.begin + c, left), c);
        const R gradient = load(g.y + map + cursor.next() * p.channels + c, left);
        const R s = sigmoid<V>(x);
        // d SiLU / dx = s (1 + x (1 - s))
        const R slope = V::mul(s, V::fma(x, V::sub(V::set(1), s), V::set(1)));
        const R before = V::mul(gradient, slope);
        V::store(inner + (history + t) * W, before);
        sum_bias = V::add(sum_bias, before);
        for (int64_t k = 0; k < p.taps; ++k) {
          sum_weight[k] = V::fma(before, load(sequence.rows[t + k] + c, left), sum_weight[k]);
        }
      }
      store(grad_bias + c, sum_bias, left);
      for (int64_t k = 0; k < p.taps; ++k) {
        T lane[W];
        V::store(lane, sum_weight[k]);
        for (int64_t i = 0; i < lanes; ++i) grad_weight[(c + i) * p.taps + k] = lane[i];
      }
      cursor = TokenCursor(cell, p.grid.cols.extent);
      for (int64_t i = 0; i < history + sequence.length; ++i) {
        R sum = V::set(0);
        for (int64_t k = 0; k < p.taps; ++k) {
          sum = V::fma(load(sequence.weight + k * count + c, left),
                       V::load(inner + (history + i - k) * W), sum);
        }
        T lane[W];
        V::store(lane, sum);
        if (i >= sequence.length && g.next_state != nullptr) {
          for (int64_t j = 0; j < lanes; ++j) {
            lane[j] += g.next_state[offset + (c + j) * history + i - sequence.length];
          }
        }
        T* out = i < history ? g.state + offset + c * history + i
                             : g.x + map + cursor.next() * p.channels + c;
        const int64_t stride = i < history ? history : 1;
        for (int64_t j = 0; j < lanes; ++j) out[j * stride] = lane[j];
      }
    }
  }

  // --- selective scan -------------------------------------------------------------------------

  static void pack_decay(const T* A, int64_t channels, int64_t states, T* out) {
    pack(A, channels, states, static_cast<T>(kLog2E), out);
  }

  // Rows of a chunk: token numbers, and where the chunk's buffers are.
  struct Chunk {
    int tokens;
    int64_t token[kChunk];
    int64_t ahead[kChunk];  // tokens of the chunk after this one; this one's when it is the last
    T* dt;     // [tokens, stride]
    T* input;  // dt u
    T* sum;    // C S
    int64_t stride;
  };

  // Advance `Group` states of one block of channels over a chunk; they stay in registers.
  template <int Group, bool First>
  static void scan_group(const ScanProblem<T>& p, const Item& item, const Chunk& chunk, int64_t c,
                         int64_t n, const T* decay, T* state) {
    constexpr int K = Group % V::kAbreast == 0 ? V::kAbreast : 1;
    const int64_t batch = item.batch;
    const int64_t map = batch * p.grid.tokens() * p.channels + item.begin + c;
    const T* B = p.B + batch * p.grid.tokens() * p.states + n;
    const T* C = p.C + batch * p.grid.tokens() * p.states + n;
    R s[Group];
#pragma GCC unroll 32
    for (int i = 0; i < Group; ++i) s[i] = V::load(state + i * W);
    for (int t = 0; t < chunk.tokens; ++t) {
      if (First) {
        // While the arithmetic runs: what `close_chunk` and the next `open_chunk` will touch. Rows
        // of a window lie far apart, and the processor does not foresee them.
        const int64_t now = map + chunk.token[t] * p.channels;
        const int64_t then = map + chunk.ahead[t] * p.channels;
        __builtin_prefetch(p.z + now, 0, 2);
        __builtin_prefetch(p.y + now, 1, 2);
        __builtin_prefetch(p.u + then, 0, 2);
        __builtin_prefetch(p.dt + then, 0, 2);
      }
      const R dt = V::load(chunk.dt + t * chunk.stride + c);
      const R input = V::load(chunk.input + t * chunk.stride + c);
      const T* b = B + chunk.token[t] * p.states;
      const T* out = C + chunk.token[t] * p.states;
      R even = First ? V::set(0) : V::load(chunk.sum + t * chunk.stride + c);
      R odd = V::set(0);
#pragma GCC unroll 32
      for (int i = 0; i < Group; i += K) {
        R a[K];
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) a[k] = V::mul(dt, V::load(decay + (i + k) * W));
        exp2_abreast<V, K>(a);
#pragma GCC unroll 8
        for (int k = 0; k < K; ++k) {
          s[i + k] = V::fma(a[k], s[i + k], V::mul(input, V::set(b[i + k])));
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
  static void scan_groups(const ScanProblem<T>& p, const Item& item, const Chunk& chunk, int64_t c,
                          int64_t& n, const T* decay, T* state) {
    for (; p.states - n >= Group; n += Group) {
      if (n == 0) {
        scan_group<Group, true>(p, item, chunk, c, n, decay, state);
      } else {
        scan_group<Group, false>(p, item, chunk, c, n, decay + n * W, state + n * W);
      }
    }
  }

  static void scan_block(const ScanProblem<T>& p, const Item& item, const Chunk& chunk, int64_t c,
                         const T* decay, T* state) {
    int64_t n = 0;
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

  static void scan(const ScanProblem<T>& p, const Item& item, Scratch& scratch) {
    const int64_t count = item.end - item.begin;
    const int64_t stride = blocks(count) * W;
    const Cell cell = p.grid.cell(item.cell);
    Arrays<T> arrays(scratch.reserve(3 * Arrays<T>::bytes(kChunk * stride) +
                                     Arrays<T>::bytes(stride * p.states)));
    Chunk chunk;
    chunk.dt = arrays.take(kChunk * stride);
    chunk.input = arrays.take(kChunk * stride);
    chunk.sum = arrays.take(kChunk * stride);
    chunk.stride = stride;
    T* state = arrays.take(stride * p.states);
    const int64_t offset = state_offset(p, item) * p.states;
    pack(p.state + offset, count, p.states, T(1), state);
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
      for (int64_t c = 0; c < count; c += W) {
        scan_block(p, item, chunk, c, decay + c * p.states, state + c * p.states);
      }
      close_chunk(p, item, chunk);
    }
    unpack(state, count, p.states, p.next_state + offset);
  }

  // Recomputes a block's states, keeps them, and walks back over them.
  static void scan_backward(const ScanProblem<T>& p, const ScanGradients<T>& g, const Item& item,
                            Scratch& scratch) {
    const int64_t count = item.end - item.begin;
    const int64_t N = p.states;
    const Cell cell = p.grid.cell(item.cell);
    const int64_t length = cell.tokens();
    const int64_t row = N * W;
    Arrays<T> arrays(scratch.reserve(Arrays<T>::bytes((length + 1) * row) +
                                     3 * Arrays<T>::bytes(length * row) +
                                     2 * Arrays<T>::bytes(length * W) + 3 * Arrays<T>::bytes(row)));
    T* states = arrays.take((length + 1) * row);
    T* decays = arrays.take(length * row);
    T* sum_B = arrays.take(length * row);
    T* sum_C = arrays.take(length * row);
    T* steps = arrays.take(length * W);
    T* scanned = arrays.take(length * W);
    T* carry = arrays.take(row);
    T* A = arrays.take(row);
    T* sum_A = arrays.take(row);
    for (int64_t i = 0; i < length * row; ++i) sum_B[i] = sum_C[i] = T(0);

    const int64_t map = item.batch * p.grid.tokens() * p.channels + item.begin;
    const T* B = p.B + item.batch * p.grid.tokens() * N;
    const T* C = p.C + item.batch * p.grid.tokens() * N;
    const int64_t partial = (item.batch * p.grid.cells() + item.cell) * p.channels + item.begin;
    const int64_t offset = state_offset(p, item) * N;
    const T* decay = p.decay + item.begin * N;
    for (int64_t c = 0; c < count; c += W) {
      const int64_t left = count - c;
      const int64_t lanes = left < W ? left : W;
      const R bias = load(p.dt_bias + item.begin + c, left);
      const R skip = load(p.skip + item.begin + c, left);
      pack(p.state + offset + c * N, lanes, N, T(1), states);
      pack(p.A + (item.begin + c) * N, lanes, N, T(1), A);
      TokenCursor cursor(cell, p.grid.cols.extent);
      for (int64_t t = 0; t < length; ++t) {
        const int64_t token = cursor.next();
        const R dt = softplus<V>(V::add(load(p.dt + map + token * p.channels + c, left), bias));
        const R input = V::mul(dt, load(p.u + map + token * p.channels + c, left));
        const T* s = states + t * row;
        T* s_next = states + (t + 1) * row;
        R sum = V::set(0);
        for (int64_t n = 0; n < N; ++n) {
          const R a = V::exp2(V::mul(dt, V::load(decay + c * N + n * W)));
          const R advanced = V::fma(a, V::load(s + n * W), V::mul(input, V::set(B[token * N + n])));
          V::store(decays + t * row + n * W, a);
          V::store(s_next + n * W, advanced);
          sum = V::fma(advanced, V::set(C[token * N + n]), sum);
        }
        V::store(steps + t * W, dt);
        V::store(scanned + t * W, sum);
      }

      if (g.next_state != nullptr) {
        pack(g.next_state + offset + c * N, lanes, N, T(1), carry);
      } else {
        for (int64_t i = 0; i < row; ++i) carry[i] = T(0);
      }
      for (int64_t i = 0; i < row; ++i) sum_A[i] = T(0);
      R sum_bias = V::set(0);
      R sum_skip = V::set(0);
      for (int64_t t = length - 1; t >= 0; --t) {
        const int64_t token = cell.token(t, p.grid.cols.extent);
        const int64_t at = map + token * p.channels + c;
        const R x = V::add(load(p.dt + at, left), bias);
        const R u = load(p.u + at, left);
        const R z = load(p.z + at, left);
        const R dt = V::load(steps + t * W);
        const R gradient = load(g.y + at, left);
        const R s_z = sigmoid<V>(z);
        const R y = V::fma(skip, u, V::load(scanned + t * W));
        // d SiLU / dz = s (1 + z (1 - s))
        const R slope = V::mul(s_z, V::fma(z, V::sub(V::set(1), s_z), V::set(1)));
        store(g.z + at, V::mul(V::mul(gradient, y), slope), left);
        const R grad_y = V::mul(gradient, V::mul(z, s_z));
        sum_skip = V::fma(grad_y, u, sum_skip);
        const R input = V::mul(dt, u);
        R grad_input = V::set(0);  // sum over n of grad_S B
        R grad_dt = V::set(0);
        for (int64_t n = 0; n < N; ++n) {
          const int64_t i = t * row + n * W;
          const R grad_s =
              V::fma(grad_y, V::set(C[token * N + n]), V::load(carry + n * W));
          V::store(sum_C + i, V::fma(grad_y, V::load(states + i + row), V::load(sum_C + i)));
          V::store(sum_B + i, V::fma(grad_s, input, V::load(sum_B + i)));
          grad_input = V::fma(grad_s, V::set(B[token * N + n]), grad_input);
          const R back = V::mul(grad_s, V::load(decays + i));
          const R rate = V::mul(back, V::load(states + i));
          grad_dt = V::fma(rate, V::load(A + n * W), grad_dt);
          V::store(sum_A + n * W, V::fma(rate, dt, V::load(sum_A + n * W)));
          V::store(carry + n * W, back);
        }
        grad_dt = V::fma(grad_input, u, grad_dt);
        store(g.u + at, V::fma(grad_y, skip, V::mul(grad_input, dt)), left);
        const R grad_x = V::mul(grad_dt, sigmoid<V>(x));
        store(g.dt + at, grad_x, left);
        sum_bias = V::add(sum_bias, grad_x);
      }
      store(g.dt_bias + partial + c, sum_bias, left);
      store(g.skip + partial + c, sum_skip, left);
      unpack(sum_A, lanes, N, g.A + (partial + c) * N);
      unpack(carry, lanes, N, g.state + offset + c * N);
    }
    TokenCursor cursor(cell, p.grid.cols.extent);
    for (int64_t t = 0; t < length; ++t) {
      const int64_t at = (item.batch * p.grid.tokens() + cursor.next()) * N;
      for (int64_t n = 0; n < N; ++n) {
        g.B[at + n] = V::sum(V::load(sum_B + t * row + n * W));
        g.C[at + n] = V::sum(V::load(sum_C + t * row + n * W));
      }
    }
  }

  // --- probes ---------------------------------------------------------------------------------

  static void exp(const T* x, int64_t count, bool base2, T* out) {
    for (int64_t i = 0; i < count; i += W) {
      const R lane = load(x + i, count - i);
      store(out + i, base2 ? V::exp2(lane) : V::exp(lane), count - i);
    }
  }
};

// --- upsampling and argmax, float only ----------------------------------------------------------

template <class V>
struct ArgmaxKernel {
  using R = typename V::R;
  static constexpr int W = V::kLanes;

  template <bool Permute>
  static R sample(const float* row, const ArgmaxProblem& p, int64_t x) {
    const R fraction = V::load(p.fraction + x);
    R left;
    R right;
    if constexpr (Permute) {
      const int32_t base = p.left[x];
      const R source = V::load(row + base);
      left = V::permute(source, p.left + x, base);
      right = V::permute(source, p.right + x, base);
    } else {
      left = V::gather(row, p.left + x);
      right = V::gather(row, p.right + x);
    }
    return V::fma(fraction, V::sub(right, left), left);
  }

  template <bool Permute>
  static void label_block(const float* blended, int64_t stride, const ArgmaxProblem& p, int64_t x,
                          uint8_t* out) {
    R best = sample<Permute>(blended, p, x);
    R label = V::set(0);
    for (int64_t k = 1; k < p.classes; ++k) {
      V::keep_larger(sample<Permute>(blended + k * stride, p, x), V::set(static_cast<float>(k)),
                     best, label);
    }
    float lane[W];
    V::store(lane, label);
    const int64_t left = p.out_width - x;
    for (int64_t i = 0; i < W && i < left; ++i) out[x + i] = static_cast<uint8_t>(lane[i]);
  }

  static void run(const ArgmaxProblem& p, const Item& item, Scratch& scratch) {
    // Every class's source row, blended to the height of one output row; W more to read past.
    const int64_t stride = p.width + W;
    float* blended =
        static_cast<float*>(scratch.reserve(static_cast<size_t>(p.classes * stride) * 4));
    const int64_t plane = p.height * p.width;
    const float* logits = p.logits + item.batch * p.classes * plane;
    for (int64_t y = item.begin; y < item.end; ++y) {
      double source = (static_cast<double>(y) + 0.5) * static_cast<double>(p.height) /
                          static_cast<double>(p.out_height) - 0.5;
      source = source < 0 ? 0 : source;
      int64_t top = static_cast<int64_t>(source);
      top = top > p.height - 1 ? p.height - 1 : top;
      const int64_t bottom = top + 1 < p.height ? top + 1 : top;
      const R weight = V::set(static_cast<float>(source - static_cast<double>(top)));
      for (int64_t k = 0; k < p.classes; ++k) {
        const float* upper = logits + k * plane + top * p.width;
        const float* lower = logits + k * plane + bottom * p.width;
        float* out = blended + k * stride;
        for (int64_t x = 0; x < p.width; x += W) {
          const int64_t left = p.width - x;
          const int part = static_cast<int>(left < W ? left : W);
          const R a = part < W ? V::load_part(upper + x, part) : V::load(upper + x);
          const R b = part < W ? V::load_part(lower + x, part) : V::load(lower + x);
          V::store(out + x, V::fma(weight, V::sub(b, a), a));
        }
      }
      uint8_t* out = p.labels + (item.batch * p.out_height + y) * p.out_width;
      for (int64_t x = 0; x < p.out_width; x += W) {
        if constexpr (V::kPermutes) {
          if (p.right[x + W - 1] - p.left[x] < W) {
            label_block<true>(blended, stride, p, x, out);
            continue;
          }
        }
        label_block<false>(blended, stride, p, x, out);
      }
    }
  }
};

// --- what the hardware could do at best ---------------------------------------------------------

// kind 0: the scan's decays alone (one product and 2^t a state); 1: its other products and sums
// alone; 2: both, as the scan does them. Operands live in registers.
template <class V>
float measure_floor(int64_t vectors, int kind) {
  using R = typename V::R;
  constexpr int kStreams = 8;
  R s[kStreams];
  R t[kStreams];
  for (int i = 0; i < kStreams; ++i) {
    s[i] = V::set(0.5f);
    t[i] = V::set(-0.01f * static_cast<float>(i + 1));
  }
  R dt = V::set(0.1f);
  const R c = V::set(0.25f);
  const R step = V::set(1.0009765625f);
  R sum = V::set(0);
  R odd = V::set(0);
  for (int64_t v = 0; v < vectors; v += kStreams) {
    if (kind == 0) {
      for (int i = 0; i < kStreams; ++i) s[i] = V::max(s[i], V::exp2(V::mul(dt, t[i])));
    } else if (kind == 1) {
      for (int i = 0; i < kStreams; ++i) {
        s[i] = V::fma(c, s[i], V::mul(dt, t[i]));
        R& y = i % 2 == 0 ? sum : odd;
        y = V::fma(s[i], c, y);
      }
    } else {
#pragma GCC unroll 32
      for (int i = 0; i < kStreams; i += V::kAbreast) {
        R a[V::kAbreast];
#pragma GCC unroll 8
        for (int k = 0; k < V::kAbreast; ++k) a[k] = V::mul(dt, t[i + k]);
        exp2_abreast<V, V::kAbreast>(a);
#pragma GCC unroll 8
        for (int k = 0; k < V::kAbreast; ++k) {
          s[i + k] = V::fma(a[k], s[i + k], V::mul(dt, c));
          R& y = k % 2 == 0 ? sum : odd;
          y = V::fma(s[i + k], c, y);
        }
      }
    }
    dt = V::mul(dt, step);
  }
  for (int i = 0; i < kStreams; ++i) sum = V::add(sum, s[i]);
  return V::sum(V::add(sum, odd));
}

}  // namespace
}  // namespace streamseg
