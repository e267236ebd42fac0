// The kernels at every instruction set of this machine against double precision, without Python, so
// that they also run under sanitizers and on an emulated AArch64.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "c_api.h"
#include "expect.h"
#include "half.h"
#include "probes.h"

namespace {

template <class To, class From>
std::vector<To> as(const std::vector<From>& from) {
  return std::vector<To>(from.begin(), from.end());
}

template <class T>
double relative_error(const std::vector<float>& got, const std::vector<T>& wanted) {
  double worst = 0;
  double largest = 1e-30;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::fabs(double(got[i]) - double(wanted[i]));
    if (!(difference <= worst)) worst = difference;  // keeps what is not a number
    largest = std::fmax(largest, std::fabs(double(wanted[i])));
  }
  return worst / largest;
}

struct Case {
  streamseg_sizes sizes;
  int64_t cells;
  std::string name;
};

std::vector<float> random_numbers(std::mt19937& random, int64_t count, double low, double high) {
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<float> numbers(static_cast<size_t>(count));
  for (auto& number : numbers) number = static_cast<float>(uniform(random));
  return numbers;
}

// Positive factors, so that sums do not cancel and errors are relative to what is summed.
template <class T>
struct Scan {
  std::vector<T> u, dt, dt_bias, A, B, C, skip, z, state;
};

Scan<float> make_scan(const Case& c, std::mt19937& random) {
  const auto& s = c.sizes;
  const int64_t rows = s.batch * s.map_h * s.map_w;
  return {random_numbers(random, rows * s.channels, 0.1, 1),
          random_numbers(random, rows * s.channels, -2, 2),
          random_numbers(random, s.channels, -6, 1),
          random_numbers(random, s.channels * s.depth, -16, -0.2),
          random_numbers(random, rows * s.depth, 0.1, 1),
          random_numbers(random, rows * s.depth, 0.1, 1),
          random_numbers(random, s.channels, 0.1, 1),
          random_numbers(random, rows * s.channels, -3, 3),
          random_numbers(random, s.batch * c.cells * s.channels * s.depth, 0, 1)};
}

template <class T, class Forward, class Backward>
std::vector<std::vector<T>> run_scan(const Case& c, const Scan<T>& i, Forward forward,
                                     Backward backward) {
  std::vector<T> y(i.u.size()), next(i.state.size());
  expect(forward(&c.sizes, i.u.data(), i.dt.data(), i.dt_bias.data(), i.A.data(), i.B.data(),
                 i.C.data(), i.skip.data(), i.z.data(), i.state.data(), y.data(),
                 next.data()) == 0,
         c.name + " scan runs");
  Scan<T> g = i;
  expect(backward(&c.sizes, i.u.data(), i.dt.data(), i.dt_bias.data(), i.A.data(), i.B.data(),
                  i.C.data(), i.skip.data(), i.z.data(), i.state.data(), i.u.data(),
                  i.state.data(), g.u.data(), g.dt.data(), g.dt_bias.data(), g.A.data(),
                  g.B.data(), g.C.data(), g.skip.data(), g.z.data(), g.state.data()) == 0,
         c.name + " scan gradients run");
  return {y, next, g.u, g.dt, g.dt_bias, g.A, g.B, g.C, g.skip, g.z, g.state};
}

void test_scan(Case c, std::mt19937& random) {
  const Scan<float> i = make_scan(c, random);
  const Scan<double> wide = {as<double>(i.u),    as<double>(i.dt), as<double>(i.dt_bias),
                             as<double>(i.A),    as<double>(i.B),  as<double>(i.C),
                             as<double>(i.skip), as<double>(i.z),  as<double>(i.state)};
  const auto wanted = run_scan<double>(c, wide, streamseg_windowed_selective_scan_f64,
                                       streamseg_windowed_selective_scan_backward_f64);
  std::vector<std::vector<float>> first;
  for (const int64_t threads : {1, 3}) {
    c.sizes.threads = threads;
    const auto got = run_scan<float>(c, i, streamseg_windowed_selective_scan_f32,
                                     streamseg_windowed_selective_scan_backward_f32);
    for (size_t k = 0; k < got.size(); ++k) {
      const double limit = k < 2 ? 2e-6 : 1e-5;
      const double error = relative_error(got[k], wanted[k]);
      expect(error <= limit,
             c.name + " scan output " + std::to_string(k) + " error " + std::to_string(error));
    }
    if (threads == 1) first = got;
    expect(got == first, c.name + " scan does not depend on the number of threads");
  }
}

// Independent of the kernels: the recurrence of one cell, one channel, straight from its definition.
void test_scan_definition() {
  Case c{{2, 3, 2, 3, 0, 0, 1, 1, 1, 1}, 1, "definition"};
  const double u = 0.5, dt = 0.3, bias = -1, A = -2, B = 0.7, C = 1.1, skip = 0.2, z = 0.4;
  const Scan<double> i = {std::vector<double>(6, u), std::vector<double>(6, dt), {bias}, {A},
                          std::vector<double>(6, B), std::vector<double>(6, C),  {skip},
                          std::vector<double>(6, z), {0.25}};
  std::vector<double> y(6), next(1);
  expect(streamseg_windowed_selective_scan_f64(
             &c.sizes, i.u.data(), i.dt.data(), i.dt_bias.data(), i.A.data(), i.B.data(),
             i.C.data(), i.skip.data(), i.z.data(), i.state.data(), y.data(), next.data()) == 0,
         "definition runs");
  double s = 0.25;
  const double step = std::log1p(std::exp(dt + bias));
  for (int t = 0; t < 6; ++t) {
    s = std::exp(step * A) * s + step * u * B;
    const double wanted = (C * s + skip * u) * z / (1 + std::exp(-z));
    expect(std::fabs(y[static_cast<size_t>(t)] - wanted) < 1e-12, "definition, y");
  }
  expect(std::fabs(next[0] - s) < 1e-12, "definition, state");
}

void test_conv(Case c, std::mt19937& random) {
  const auto& s = c.sizes;
  const int64_t rows = s.batch * s.map_h * s.map_w;
  const auto x = random_numbers(random, rows * s.channels, 0.1, 1);
  const auto weight = random_numbers(random, s.channels * s.depth, 0.1, 1);
  const auto bias = random_numbers(random, s.channels, -1, 1);
  const auto state = random_numbers(random, s.batch * c.cells * s.channels * (s.depth - 1), 0, 1);
  const auto wide_x = as<double>(x), wide_weight = as<double>(weight), wide_bias = as<double>(bias),
             wide_state = as<double>(state);
  std::vector<double> y(x.size()), next(state.size()), gx(x.size()), gw(weight.size()),
      gb(bias.size()), gs(state.size() + 1);
  next.reserve(1);
  std::vector<double> spare(1);
  const auto data = [&](auto& v) { return v.empty() ? spare.data() : v.data(); };
  const double* old = state.empty() ? spare.data() : wide_state.data();
  expect(streamseg_windowed_causal_conv_f64(&c.sizes, wide_x.data(), wide_weight.data(),
                                            wide_bias.data(), old, y.data(), data(next)) == 0 &&
             streamseg_windowed_causal_conv_backward_f64(
                 &c.sizes, wide_x.data(), wide_weight.data(), wide_bias.data(), old, wide_x.data(),
                 old, gx.data(), gw.data(), gb.data(), gs.data()) == 0,
         c.name + " conv runs in double");
  std::vector<float> ours(x.size()), ours_next(state.size() + 1), ours_gx(x.size()),
      ours_gw(weight.size()), ours_gb(bias.size()), ours_gs(state.size() + 1);
  const float none = 0;
  const float* old_state = state.empty() ? &none : state.data();
  expect(streamseg_windowed_causal_conv_f32(&c.sizes, x.data(), weight.data(), bias.data(),
                                            old_state, ours.data(), ours_next.data()) == 0 &&
             streamseg_windowed_causal_conv_backward_f32(
                 &c.sizes, x.data(), weight.data(), bias.data(), old_state, x.data(), old_state,
                 ours_gx.data(), ours_gw.data(), ours_gb.data(), ours_gs.data()) == 0,
         c.name + " conv runs");
  ours_next.resize(state.size());
  ours_gs.resize(state.size());
  expect(relative_error(ours, y) <= 2e-6, c.name + " conv output");
  expect(relative_error(ours_next, next) <= 2e-6, c.name + " conv state");
  expect(relative_error(ours_gx, gx) <= 1e-5, c.name + " conv gradient of x");
  expect(relative_error(ours_gw, gw) <= 1e-5, c.name + " conv gradient of weight");
  expect(relative_error(ours_gb, gb) <= 1e-5, c.name + " conv gradient of bias");
  expect(relative_error(ours_gs, gs) <= 1e-5, c.name + " conv gradient of state");
}

// A product in double precision: [rows, depth] times [depth, columns].
std::vector<double> multiply(const std::vector<double>& a, const std::vector<double>& b,
                             int64_t rows, int64_t depth, int64_t columns) {
  std::vector<double> c(size_t(rows * columns));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < columns; ++j) {
        c[size_t(i * columns + j)] += a[size_t(i * depth + k)] * b[size_t(k * columns + j)];
      }
    }
  }
  return c;
}

std::vector<double> columns_of(const std::vector<double>& a, int64_t width, int64_t begin,
                               int64_t count) {
  std::vector<double> part;
  for (size_t row = 0; row < a.size(); row += size_t(width)) {
    part.insert(part.end(), a.begin() + long(row) + begin, a.begin() + long(row) + begin + count);
  }
  return part;
}

double norm_of(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

// The layer against its parts in double precision.
void test_layer(Case c, const streamseg_layer_sizes& z, std::mt19937& random) {
  const int64_t rows = c.sizes.batch * c.sizes.map_h * c.sizes.map_w;
  const int64_t wide = z.rank + 2 * z.states;
  const auto numbers = [&](int64_t count, double low, double high) {
    return random_numbers(random, count, low, high);
  };
  const auto x = numbers(rows * z.features, -1, 1), norm = numbers(z.features, 0.8, 1.2);
  const auto u_proj = numbers(z.features * z.channels, -0.3, 0.3);
  const auto z_proj = numbers(z.features * z.channels, -0.3, 0.3);
  const auto taps = numbers(z.channels * z.taps, -0.5, 0.5), bias = numbers(z.channels, -0.1, 0.1);
  const auto dt_proj = numbers(z.rank * z.channels, -0.5, 0.5), dt_bias = numbers(z.channels, -4, -2);
  const auto A = numbers(z.channels * z.states, -8, -0.2), x_proj = numbers(z.channels * wide, -0.3, 0.3);
  const auto skip = numbers(z.channels, -1, 1), out = numbers(z.channels * z.features, -0.3, 0.3);
  const auto conv = numbers(c.sizes.batch * c.cells * z.channels * (z.taps - 1), -1, 1);
  const auto scan = numbers(c.sizes.batch * c.cells * z.channels * z.states, -1, 1);

  std::vector<double> normed = as<double>(x);
  for (int64_t i = 0; i < rows; ++i) {
    double sum = 0;
    for (int64_t e = 0; e < z.features; ++e) sum += std::pow(normed[size_t(i * z.features + e)], 2);
    for (int64_t e = 0; e < z.features; ++e) {
      normed[size_t(i * z.features + e)] *= double(norm[size_t(e)]) / std::sqrt(sum / double(z.features) + 1e-5);
    }
  }
  const auto u = multiply(normed, as<double>(u_proj), rows, z.features, z.channels);
  const auto gate = multiply(normed, as<double>(z_proj), rows, z.features, z.channels);
  std::vector<double> v(u.size()), next_conv(conv.size()), y(u.size()), next_scan(scan.size());
  streamseg_sizes s = c.sizes;
  s.channels = z.channels;
  s.depth = z.taps;
  const auto wide_taps = as<double>(taps), wide_bias = as<double>(bias), old = as<double>(conv);
  bool ran = streamseg_windowed_causal_conv_f64(&s, u.data(), wide_taps.data(), wide_bias.data(), old.data(),
                                                v.data(), next_conv.data()) == 0;
  const auto low = multiply(v, as<double>(x_proj), rows, z.channels, wide);
  const auto dt = multiply(columns_of(low, wide, 0, z.rank), as<double>(dt_proj), rows, z.rank, z.channels);
  const auto B = columns_of(low, wide, z.rank, z.states);
  const auto C = columns_of(low, wide, z.rank + z.states, z.states);
  const auto wide_dt = as<double>(dt_bias), wide_A = as<double>(A), wide_skip = as<double>(skip);
  const auto old_scan = as<double>(scan);
  s.depth = z.states;
  ran &= streamseg_windowed_selective_scan_f64(&s, v.data(), dt.data(), wide_dt.data(), wide_A.data(), B.data(),
                                               C.data(), wide_skip.data(), gate.data(), old_scan.data(), y.data(),
                                               next_scan.data()) == 0;
  expect(ran, c.name + " layer's parts run");
  const auto added = multiply(y, as<double>(out), rows, z.channels, z.features);

  const streamseg_layer_weights weights{norm.data(), u_proj.data(), z_proj.data(), taps.data(), bias.data(),
                                        dt_proj.data(), dt_bias.data(), A.data(), x_proj.data(), skip.data(),
                                        out.data()};
  const double limits[] = {3e-6, 1e-2, 5e-2};
  for (int precision = 0; precision < 3; ++precision) {
    const std::string name = c.name + " layer " + std::to_string(precision);
    streamseg_layer* layer = nullptr;
    expect(streamseg_layer_create(&z, &weights, precision, &layer) == 0, name + " is packed");
    std::vector<float> first;
    for (const int64_t threads : {1, 3}) {
      s.threads = threads;
      std::vector<float> got(x.size()), got_conv(conv.size()), got_scan(scan.size());
      expect(streamseg_windowed_mamba_layer(layer, &s, x.data(), conv.data(), scan.data(), got.data(),
                                            got_conv.data(), got_scan.data()) == 0,
             name + " runs");
      std::vector<double> wrong(added), wrong_scan(next_scan);
      for (size_t i = 0; i < got.size(); ++i) wrong[i] -= double(got[i]) - double(x[i]);
      for (size_t i = 0; i < got_scan.size(); ++i) wrong_scan[i] -= double(got_scan[i]);
      const double error = norm_of(wrong) / norm_of(added);
      const double state = norm_of(wrong_scan) / norm_of(next_scan);
      expect(error <= limits[precision], name + " error " + std::to_string(error));
      expect(state <= limits[precision], name + " state error " + std::to_string(state));
      if (threads == 1) first = got;
      expect(got == first, name + " does not depend on the number of threads");
    }
    streamseg_layer_destroy(layer);
  }
  streamseg_layer* layer = nullptr;
  expect(streamseg_layer_create(&z, &weights, 3, &layer) == STREAMSEG_INVALID_ARGUMENT,
         "an unknown precision is refused");
}

// Attention straight from its definition.
std::vector<double> attend(const streamseg_attention_sizes& s, const std::vector<float>& q,
                           const std::vector<float>& k, const std::vector<float>& v) {
  const int64_t depth = s.features / s.heads;
  std::vector<double> y(q.size());
  std::vector<double> share(static_cast<size_t>(s.keys));
  for (int64_t row = 0; row < s.batch * s.queries * s.heads; ++row) {
    const int64_t head = row % s.heads, query = row / s.heads, batch = query / s.queries;
    const auto at = [&](int64_t token, int64_t d) { return size_t(token * s.features + head * depth + d); };
    double top = -HUGE_VAL, total = 0;
    for (int64_t key = 0; key < s.keys; ++key) {
      double score = 0;
      for (int64_t d = 0; d < depth; ++d) score += double(q[at(query, d)]) * double(k[at(batch * s.keys + key, d)]);
      share[size_t(key)] = score / std::sqrt(double(depth));
      top = std::fmax(top, share[size_t(key)]);
    }
    for (auto& number : share) total += number = std::exp(number - top);
    for (int64_t key = 0; key < s.keys; ++key) {
      for (int64_t d = 0; d < depth; ++d) {
        y[at(query, d)] += share[size_t(key)] / total * double(v[at(batch * s.keys + key, d)]);
      }
    }
  }
  return y;
}

void test_attention(const std::string& level, streamseg_attention_sizes s, std::mt19937& random) {
  const auto q = random_numbers(random, s.batch * s.queries * s.features, -2, 2);
  const auto k = random_numbers(random, s.batch * s.keys * s.features, -2, 2);
  const auto v = random_numbers(random, s.batch * s.keys * s.features, -1, 1);
  const auto wanted = attend(s, q, k, v);
  const double limits[] = {3e-6, 1e-2, 5e-2};
  for (int precision = 0; precision < 3; ++precision) {
    const std::string name = level + " attention over " + std::to_string(s.keys) + " keys, " +
                             std::to_string(precision);
    std::vector<float> first;
    for (const int64_t threads : {1, 3}) {
      s.threads = threads;
      std::vector<float> got(q.size());
      expect(streamseg_multi_head_attention(&s, precision, q.data(), k.data(), v.data(), got.data()) == 0,
             name + " runs");
      std::vector<double> wrong(wanted);
      for (size_t i = 0; i < got.size(); ++i) wrong[i] -= double(got[i]);
      const double error = norm_of(wrong) / norm_of(wanted);
      expect(error <= limits[precision], name + " error " + std::to_string(error));
      if (threads == 1) first = got;
      expect(got == first, name + " does not depend on the number of threads");
    }
  }
  std::vector<float> y(q.size());
  s.heads = s.features + 1;
  expect(streamseg_multi_head_attention(&s, 0, q.data(), k.data(), v.data(), y.data()) == STREAMSEG_INVALID_ARGUMENT,
         "heads that do not divide the features are refused");
}

void test_argmax(std::mt19937& random, int64_t h, int64_t w, int64_t height, int64_t width) {
  const int64_t classes = 7;
  const auto logits = random_numbers(random, classes * h * w, -1, 1);
  std::vector<uint8_t> labels(static_cast<size_t>(height * width));
  expect(streamseg_upsample_argmax(logits.data(), 1, classes, h, w, height, width, 2,
                                   labels.data()) == 0,
         "argmax runs");
  const auto source = [](int64_t at, int64_t in, int64_t out) {
    const double s = (double(at) + 0.5) * double(in) / double(out) - 0.5;
    return s < 0 ? 0 : s;
  };
  double worst = 0;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const double sy = source(y, h, height), sx = source(x, w, width);
      const int64_t y0 = std::min<int64_t>(int64_t(sy), h - 1), x0 = std::min<int64_t>(int64_t(sx), w - 1);
      const int64_t y1 = std::min<int64_t>(y0 + 1, h - 1), x1 = std::min<int64_t>(x0 + 1, w - 1);
      const auto value = [&](int64_t k) {
        const auto at = [&](int64_t r, int64_t c) { return double(logits[size_t((k * h + r) * w + c)]); };
        const double fy = sy - double(y0), fx = sx - double(x0);
        return (1 - fy) * ((1 - fx) * at(y0, x0) + fx * at(y0, x1)) +
               fy * ((1 - fx) * at(y1, x0) + fx * at(y1, x1));
      };
      double best = value(0);
      for (int64_t k = 1; k < classes; ++k) best = std::fmax(best, value(k));
      worst = std::fmax(worst, best - value(labels[size_t(y * width + x)]));
    }
  }
  expect(worst <= 1e-5, "argmax picks the largest, short of it by " + std::to_string(worst));
}

void test_exp(const std::string& level) {
  for (const int base2 : {0, 1}) {
    std::vector<float> x, y;
    for (float v = base2 != 0 ? -126.0f : -87.0f; v < (base2 != 0 ? 0.0f : 88.0f); v += 0.00131f) x.push_back(v);
    x.push_back(0.0f);
    y.resize(x.size());
    expect(probe_exp(level.c_str(), x.data(), int64_t(x.size()), base2, y.data()) == 0, "exp runs");
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double wanted = base2 != 0 ? std::exp2(double(x[i])) : std::exp(double(x[i]));
      const float rounded = float(wanted);
      const double ulp = double(std::nextafter(rounded, std::numeric_limits<float>::infinity())) - double(rounded);
      worst = std::fmax(worst, std::fabs(double(y[i]) - wanted) / ulp);
    }
    expect(y.back() == 1.0f, "exp is 1 at 0");
    expect(worst <= 2, "exp is within 2 ulp, got " + std::to_string(worst));
  }
}

void test_errors() {
  float number = 0;
  streamseg_sizes s{4, 4, 2, 2, 0, 0, 1, 1, 4, 1};
  const auto conv = [&](const streamseg_sizes& sizes) {
    return streamseg_windowed_causal_conv_f32(&sizes, &number, &number, &number, &number, &number, &number);
  };
  for (const auto field : {&streamseg_sizes::map_h, &streamseg_sizes::map_w, &streamseg_sizes::window_h,
                           &streamseg_sizes::window_w, &streamseg_sizes::batch, &streamseg_sizes::channels,
                           &streamseg_sizes::depth}) {
    for (const int64_t value : {int64_t(0), int64_t(-1), std::numeric_limits<int64_t>::max()}) {
      streamseg_sizes wrong = s;
      wrong.*field = value;
      expect(conv(wrong) == STREAMSEG_INVALID_ARGUMENT, "sizes out of range are refused");
    }
  }
  s.offset_w = 2;
  expect(conv(s) == STREAMSEG_INVALID_ARGUMENT && std::strstr(streamseg_last_error(), "offset_w is 2"),
         "an offset as large as the window is refused");
  expect(streamseg_windowed_causal_conv_f32(nullptr, &number, &number, &number, &number, &number,
                                            &number) == STREAMSEG_INVALID_ARGUMENT,
         "a null pointer is refused");
  expect(streamseg_select_level("mmx") == STREAMSEG_INVALID_ARGUMENT, "an unknown level is refused");
  uint8_t label = 0;
  expect(streamseg_upsample_argmax(&number, 1, 256, 1, 1, 1, 1, 1, &label) == STREAMSEG_INVALID_ARGUMENT,
         "256 classes are refused");
}

}  // namespace

// Every float16 against its definition, and rounding on either side of every midpoint.
void test_half() {
  const auto value = [](uint16_t half) {
    const int exponent = half >> 10 & 31;
    const int fraction = half & 1023;
    const double size = exponent == 0 ? std::ldexp(fraction, -24)
                                      : std::ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -size : size;
  };
  bool widened = true;
  bool narrowed = true;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = streamseg::widen_half(half);
    if ((half & 0x7fff) > 0x7c00) {
      widened &= std::isnan(wide);
      narrowed &= (streamseg::narrow_to_half(wide) & 0x7fff) > 0x7c00;
      continue;
    }
    const double infinite = half & 0x8000 ? -HUGE_VAL : HUGE_VAL;
    widened &= wide == ((half & 0x7fff) == 0x7c00 ? infinite : value(half));
    widened &= std::signbit(wide) == (half >> 15 != 0);
    narrowed &= streamseg::narrow_to_half(wide) == half;
    if ((half & 0x7fff) >= 0x7c00) continue;
    // The first value past the largest would be 65536: from half way on it is infinity.
    const auto next = static_cast<uint16_t>(half + 1);
    const double after = (next & 0x7fff) == 0x7c00 ? (half & 0x8000 ? -65536.0 : 65536.0) : value(next);
    const auto middle = static_cast<float>((value(half) + after) / 2);
    const float outward = half & 0x8000 ? -HUGE_VALF : HUGE_VALF;
    narrowed &= streamseg::narrow_to_half(middle) == (half & 1 ? next : half);
    narrowed &= streamseg::narrow_to_half(std::nextafter(middle, 0.0f)) == half;
    narrowed &= streamseg::narrow_to_half(std::nextafter(middle, outward)) == next;
  }
  expect(widened, "float16 widens exactly");
  expect(narrowed, "float32 rounds to the nearest float16, ties to even");
  expect(streamseg::narrow_to_half(1e9f) == 0x7c00, "what is too large becomes infinity");
}

// Every bfloat16, and rounding on either side of every midpoint.
void test_bfloat16() {
  const auto number = [](uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  };
  bool exact = true;
  bool nearest = true;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto narrow = static_cast<uint16_t>(bits);
    const float wide = streamseg::widen_bfloat16(narrow);
    if (std::isnan(number(bits << 16))) {
      exact &= std::isnan(wide) && std::isnan(streamseg::widen_bfloat16(streamseg::narrow_to_bfloat16(wide)));
      exact &= std::isnan(streamseg::widen_bfloat16(streamseg::narrow_to_bfloat16(number(bits << 16 | 1))));
      continue;
    }
    exact &= wide == number(bits << 16) && streamseg::narrow_to_bfloat16(wide) == narrow;
    if (std::isinf(wide)) continue;
    const uint32_t middle = bits << 16 | 0x8000u;
    const auto next = static_cast<uint16_t>(bits + 1);
    nearest &= streamseg::narrow_to_bfloat16(number(middle)) == (bits & 1 ? next : narrow);
    nearest &= streamseg::narrow_to_bfloat16(number(middle - 1)) == narrow;
    nearest &= streamseg::narrow_to_bfloat16(number(middle + 1)) == next;
  }
  expect(exact, "bfloat16 widens exactly, and NaN stays NaN");
  expect(nearest, "float32 rounds to the nearest bfloat16, ties to even");
}

int main() {
  const streamseg_sizes geometries[] = {
      // map, window, offset, batch, channels, states or taps, threads
      {1, 1, 1, 1, 0, 0, 1, 1, 4, 1},      {7, 9, 3, 4, 1, 2, 2, 5, 8, 1},
      {5, 5, 5, 5, 2, 2, 1, 21, 16, 1},    {6, 11, 4, 3, 0, 1, 1, 33, 5, 1},
      {20, 20, 20, 20, 10, 10, 1, 16, 16, 1}, {3, 2, 6, 6, 5, 5, 1, 37, 32, 1},
      {40, 40, 40, 40, 0, 0, 1, 4, 4, 1}};
  std::string levels = streamseg_levels();
  levels += ",";
  for (size_t start = 0, end; (end = levels.find(',', start)) != std::string::npos; start = end + 1) {
    const std::string level = levels.substr(start, end - start);
    expect(streamseg_select_level(level.c_str()) == 0 && level == streamseg_level(), "level is selected");
    std::mt19937 random(1);
    for (auto sizes : geometries) {
      Case c{sizes, 0, level + " " + std::to_string(sizes.map_h) + "x" + std::to_string(sizes.map_w)};
      expect(streamseg_cells(&c.sizes, &c.cells) == 0, "cells are counted");
      test_scan(c, random);
      test_layer(c, {21, 37, 4, 5, 3}, random);
      // Buffers larger than what rounding to pages adds, in a cell of more than one chunk.
      if (c.sizes.map_h == 20) test_layer(c, {96, 200, 4, 16, 6}, random);
      for (const int64_t taps : {1, 2, 4, 7}) {
        c.sizes.depth = taps;
        test_conv(c, random);
      }
    }
    for (const auto& sizes : {streamseg_attention_sizes{2, 3, 7, 5, 15, 1},
                              streamseg_attention_sizes{1, 1, 122, 33, 64, 1},
                              streamseg_attention_sizes{1, 2, 11, 1030, 34, 1}}) {
      test_attention(level, sizes, random);
    }
    test_argmax(random, 3, 5, 12, 20);
    test_argmax(random, 8, 32, 64, 256);
    test_argmax(random, 9, 7, 4, 5);
    test_argmax(random, 1, 1, 3, 3);
    test_exp(level);
    std::printf("%s\n", level.c_str());
  }
  test_half();
  test_bfloat16();
  test_scan_definition();
  test_errors();
  return report();
}
