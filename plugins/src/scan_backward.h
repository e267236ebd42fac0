// Gradients of the selective scan of one cell.
#pragma once

#include "blocks.h"

namespace streamseg {
namespace {

template <class V>
struct ScanBackward : Blocks<V> {
  using Base = Blocks<V>;
  using typename Base::R;
  using typename Base::T;
  using Base::W;
  using Base::load;
  using Base::pack;
  using Base::state_offset;
  using Base::store;
  using Base::unpack;

  // Recomputes a block's states, keeps them, and walks back over them.
  static void run(const ScanProblem<T>& p, const ScanGradients<T>& g, const Item& item,
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
          // Infinity less itself, as in `exp2`, is not a number.
          const R power = V::mul(dt, V::load(decay + c * N + n * W));
          const R a = V::exp2(V::max(V::set(T(-256)), power));
          const R advanced = advance<V>(V::load(s + n * W), a, input, V::set(B[token * N + n]));
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
};

}  // namespace
}  // namespace streamseg
