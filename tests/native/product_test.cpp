// The matrix products of every instruction set of this machine against plain definitions: integers
// bit for bit, the others within the error of their roundings.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "amx_emulated.h"
#include "expect.h"
#include "levels.h"
#include "trials.h"

using streamseg::KernelTable;
using streamseg::Packed;
using streamseg::Precision;

namespace {

struct Sizes {
  int64_t rows, depth, columns;
};

std::string describe(const KernelTable<float>& table, Precision precision, const Sizes& s) {
  const char* names[] = {"float32", "bfloat16", "int8", "int16"};
  return std::string(table.name) + " " + names[static_cast<size_t>(precision)] + " " +
         std::to_string(s.rows) + "x" + std::to_string(s.depth) + "x" + std::to_string(s.columns);
}

// What a kernel makes of a [rows, depth] and b [depth, columns]. Buffers have no spare room, so that
// AddressSanitizer finds what reads or writes past them; memory between rows must stay as it is.
std::vector<float> multiply(const KernelTable<float>& table, Precision precision, const Sizes& s,
                            const std::vector<float>& a, const std::vector<float>& b) {
  const auto padded = static_cast<size_t>(table.padded_columns(s.columns));
  const size_t bytes = table.packed_bytes(s.depth, s.columns, precision);
  std::vector<float> panels(bytes / 4), scale(padded);
  std::vector<int32_t> sums(padded);
  table.pack_product(b.data(), s.depth, s.columns, precision, panels.data(), scale.data(), sums.data());
  const int64_t words = table.row_words(s.depth, precision);
  std::vector<float> rows(static_cast<size_t>(s.rows * words)), row_scale(static_cast<size_t>(s.rows));
  for (int64_t i = 0; i < s.rows; ++i) {
    const std::vector<float> row(a.begin() + i * s.depth, a.begin() + (i + 1) * s.depth);
    row_scale[static_cast<size_t>(i)] =
        table.convert_row(row.data(), s.depth, precision, rows.data() + i * words);
  }
  const int64_t stride = s.columns + 3;
  const float untouched = -12345.0f;
  std::vector<float> c(static_cast<size_t>((s.rows - 1) * stride + s.columns), untouched);
  table.multiply(rows.data(), row_scale.data(), s.rows,
                 Packed{s.depth, s.columns, panels.data(), scale.data(), sums.data(), precision},
                 c.data(), stride);
  std::vector<float> dense;
  bool kept = true;
  for (size_t i = 0; i < c.size(); ++i) {
    if (static_cast<int64_t>(i) % stride < s.columns) {
      dense.push_back(c[i]);
    } else {
      kept &= c[i] == untouched;
    }
  }
  expect(kept, describe(table, precision, s) + " writes its own columns only");
  return dense;
}

float largest_of(const std::vector<float>& x, int64_t first, int64_t step, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::fmax(largest, std::fabs(x[static_cast<size_t>(first + i * step)]));
  }
  return largest;
}

// The scale of a column: 8-bit integers reach 127; 16-bit ones reach 32767 unless a sum with
// activations of 8191 could leave 32 bits.
float column_scale(Precision precision, const Sizes& s, const std::vector<float>& b, int64_t column) {
  const float largest = largest_of(b, column, s.columns, s.depth);
  if (precision == Precision::kInt8) return largest / 127.0f;
  float sum = 0;
  for (int64_t k = 0; k < s.depth; ++k) sum += std::fabs(b[static_cast<size_t>(k * s.columns + column)]);
  return std::fmax(largest / 32767.0f, sum / (260000.0f - static_cast<float>(s.depth) / 2));
}

// Straight from the definition: the largest number of a row becomes 127, or 8191 of 16-bit integers.
std::vector<float> integer_product(Precision precision, const Sizes& s, const std::vector<float>& a,
                                   const std::vector<float>& b) {
  std::vector<float> c;
  for (int64_t i = 0; i < s.rows; ++i) {
    const float row =
        largest_of(a, i * s.depth, 1, s.depth) / (precision == Precision::kInt8 ? 127.0f : 8191.0f);
    for (int64_t j = 0; j < s.columns; ++j) {
      const float column = column_scale(precision, s, b, j);
      int64_t sum = 0;
      for (int64_t k = 0; k < s.depth; ++k) {
        const float inverse = 1.0f / row;
        sum += std::lrint(a[static_cast<size_t>(i * s.depth + k)] * inverse) *
               std::lrint(b[static_cast<size_t>(k * s.columns + j)] / column);
      }
      const float unit = row * column;
      c.push_back(static_cast<float>(sum) * unit);
    }
  }
  return c;
}

double to_bfloat16(float x) {
  int exponent = 0;
  const double fraction = std::frexp(static_cast<double>(x), &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

// Whether c is the product within depth + 2 roundings of float32 for every sum. NEON's bfmmla rounds
// half as often and to odd, which may err twice as much: the bound is the same.
void expect_close(const std::string& name, Precision precision, const Sizes& s,
                  const std::vector<float>& a, const std::vector<float>& b,
                  const std::vector<float>& c) {
  const auto rounded = [&](float x) {
    return precision == Precision::kBfloat16 ? to_bfloat16(x) : static_cast<double>(x);
  };
  double worst = 0;
  for (int64_t i = 0; i < s.rows; ++i) {
    for (int64_t j = 0; j < s.columns; ++j) {
      double sum = 0;
      double sizes = 0;
      for (int64_t k = 0; k < s.depth; ++k) {
        const double product = rounded(a[static_cast<size_t>(i * s.depth + k)]) *
                               rounded(b[static_cast<size_t>(k * s.columns + j)]);
        sum += product;
        sizes += std::fabs(product);
      }
      // Denormal numbers may count as zero, in operands and in sums.
      const double bound = static_cast<double>(s.depth + 2) * (std::ldexp(sizes, -24) + 0x1p-123);
      const double error = std::fabs(static_cast<double>(c[static_cast<size_t>(i * s.columns + j)]) - sum);
      if (!(error / bound <= worst)) worst = error / bound;
    }
  }
  expect(worst <= 1, name + " errs by " + std::to_string(worst) + " of its bound");
}

std::vector<float> random_numbers(std::mt19937& random, int64_t count) {
  std::normal_distribution<double> normal;
  std::vector<float> numbers(static_cast<size_t>(count));
  for (auto& number : numbers) number = static_cast<float>(normal(random));
  return numbers;
}

std::vector<Precision> precisions(const KernelTable<float>& table) {
  std::vector<Precision> all = {Precision::kFloat32, Precision::kBfloat16, Precision::kInt8};
  if (table.small == Precision::kInt16) all.push_back(Precision::kInt16);
  return all;
}

bool is_integer(Precision precision) {
  return precision == Precision::kInt8 || precision == Precision::kInt16;
}

void test_product(const KernelTable<float>& table, const Sizes& s, std::mt19937& random) {
  const auto a = random_numbers(random, s.rows * s.depth);
  const auto b = random_numbers(random, s.depth * s.columns);
  for (const Precision precision : precisions(table)) {
    const std::string name = describe(table, precision, s);
    const auto c = multiply(table, precision, s, a, b);
    if (is_integer(precision)) {
      expect(c == integer_product(precision, s, a, b), name + " is exact");
    } else {
      expect_close(name, precision, s, a, b, c);
    }
    // A row is the same alone.
    const int64_t row = s.rows - 1;
    const std::vector<float> last(a.end() - s.depth, a.end());
    const auto alone = multiply(table, precision, {1, s.depth, s.columns}, last, b);
    expect(alone == std::vector<float>(c.begin() + row * s.columns, c.end()), name + " alone");
  }
}

void test_sizes(const KernelTable<float>& table) {
  std::mt19937 random(1);
  for (const int64_t edge : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65}) {
    test_product(table, {edge, 5, 3}, random);
    test_product(table, {3, edge, 3}, random);
    test_product(table, {3, 5, edge}, random);
  }
  std::uniform_int_distribution<int64_t> size(1, 90);
  for (int i = 0; i < 40; ++i) test_product(table, {size(random), size(random), size(random)}, random);
  test_product(table, {80, 512, 37}, random);
  test_product(table, {5, 1040, 33}, random);  // the longest whose integer sums float32 holds
}

// All activations and weights at the end of their range: sums at the end of the 32-bit range.
void test_largest_sums(const KernelTable<float>& table) {
  const std::set<std::string> floats = {"scalar", "avx2", "avx512", "neon"};
  const Sizes s{2, 65536, 2};
  std::vector<float> a(static_cast<size_t>(s.rows * s.depth), 1.0f);
  std::vector<float> b(static_cast<size_t>(s.depth * s.columns), 1.0f);
  std::fill(a.begin() + s.depth, a.end(), -1.0f);
  for (int64_t k = 0; k < s.depth; ++k) b[static_cast<size_t>(k * s.columns)] = -1.0f;
  for (const Precision precision : precisions(table)) {
    if (!is_integer(precision)) continue;
    const auto c = multiply(table, precision, s, a, b);
    const auto wanted = integer_product(precision, s, a, b);
    for (size_t i = 0; i < c.size(); ++i) {
      const float limit = floats.count(table.name) != 0 ? 4e-3f * std::fabs(wanted[i]) : 0.0f;
      expect(std::fabs(c[i] - wanted[i]) <= limit, describe(table, precision, s) + " largest sums");
    }
  }
}

void test_special_numbers(const KernelTable<float>& table) {
  const Sizes s{5, 21, 19};
  std::mt19937 random(2);
  for (const Precision precision : precisions(table)) {
    const std::string name = describe(table, precision, s);
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, -HUGE_VALF}) {
      auto a = random_numbers(random, s.rows * s.depth);
      const auto b = random_numbers(random, s.depth * s.columns);
      const auto before = multiply(table, precision, s, a, b);
      a[static_cast<size_t>(2 * s.depth + 7)] = value;
      const auto c = multiply(table, precision, s, a, b);
      bool reached = true;
      bool others = true;
      for (size_t i = 0; i < c.size(); ++i) {
        if (static_cast<int64_t>(i) / s.columns == 2) {
          reached &= !std::isfinite(c[i]);
        } else {
          others &= c[i] == before[i];
        }
      }
      expect(reached, name + " shows numbers that are not finite");
      expect(others, name + " keeps rows apart");
    }
    const std::vector<float> nothing(static_cast<size_t>(s.rows * s.depth));
    const auto c = multiply(table, precision, s, nothing, random_numbers(random, s.depth * s.columns));
    expect(c == std::vector<float>(c.size(), 0.0f), name + " of zeros is zero");
    if (is_integer(precision)) continue;
    auto tiny = random_numbers(random, s.rows * s.depth);
    for (auto& x : tiny) x *= 1e-38f;
    const auto b = random_numbers(random, s.depth * s.columns);
    expect_close(name + " of denormals", precision, s, tiny, b, multiply(table, precision, s, tiny, b));
  }
}

void test_products(const KernelTable<float>& table) {
  test_sizes(table);
  test_largest_sums(table);
  test_special_numbers(table);
  std::printf("products of %s\n", table.name);
}

// The trial that AMX must pass on its first processor: it passes with tiles that are right, and names
// every fault. A fault changes one number of one precision, or all a little.
void test_trials(const KernelTable<float>& right, const KernelTable<float>& trusted) {
  expect(streamseg::find_difference(right, trusted).empty(), "the trial passes");
  static const KernelTable<float>* kernels = nullptr;
  static Precision faulty = Precision::kInt8;
  static float factor = 1;
  static int64_t place = 0;
  kernels = &right;
  KernelTable<float> wrong = right;
  wrong.multiply = [](const float* rows, const float* scale, int64_t count, const Packed& weight, float* c,
                      int64_t stride) {
    kernels->multiply(rows, scale, count, weight, c, stride);
    if (weight.precision != faulty) return;
    for (int64_t j = 0; j < weight.columns; ++j) {
      if (place < 0 || (count == 37 && j == place)) c[(count - 1) * stride + j] *= factor;
    }
  };
  for (const auto& [precision, name] : {std::pair{Precision::kInt8, "int8"}, {Precision::kBfloat16, "bfloat16"}}) {
    faulty = precision;
    // One unit in the last place of an integer's product; three times the bound of bfloat16.
    factor = precision == Precision::kInt8 ? 1 + 0x1p-23f : 1.01f;
    for (const int64_t column : {-1, 0, 15, 16, 31, 32, 40}) {
      place = column;
      const std::string found = streamseg::find_difference(wrong, trusted);
      expect(found.find(name) == 0, std::string(name) + " fault in column " + std::to_string(column) +
                                        " is named, got '" + found + "'");
    }
  }
}

// Attention whose memory is full of NaN before.
std::vector<float> attend(const KernelTable<float>& table, Precision precision, int64_t keys) {
  streamseg::AttentionProblem p{1, 2, 37, keys, 40, precision, nullptr, nullptr, nullptr, nullptr, nullptr};
  std::mt19937 random(3);
  const auto q = random_numbers(random, p.queries * p.features());
  const auto k = random_numbers(random, p.keys * p.features());
  const auto v = random_numbers(random, p.keys * p.features());
  std::vector<float> y(q.size());
  std::vector<char> packed(table.attention_bytes(p) + 64, '\xff');
  p.q = q.data();
  p.k = k.data();
  p.v = v.data();
  p.y = y.data();
  p.packed = packed.data() + (64 - reinterpret_cast<uintptr_t>(packed.data()) % 64);
  streamseg::Scratch scratch;
  constexpr size_t kEnough = 1 << 22;
  std::memset(scratch.reserve(kEnough), 0xff, kEnough);
  for (int64_t head = 0; head < p.heads; ++head) {
    for (int64_t from = 0; from < keys; from += streamseg::kKeyBlock) {
      table.pack_attention(p, {0, head, from, std::min(from + streamseg::kKeyBlock, keys)}, scratch);
    }
    std::memset(scratch.reserve(kEnough), 0xff, kEnough);
    table.attention(p, {0, head, 0, p.queries}, scratch);
  }
  return y;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / size);
}

// Its integers are those of avx512vnni; its bfloat16 sums may round a share to another neighbour.
void test_attention(const KernelTable<float>& table, const KernelTable<float>& trusted) {
  // A block of keys that tiles do not divide, alone and after a whole one.
  for (const int64_t keys : {72, 584}) {
    for (const Precision precision : {Precision::kFloat32, Precision::kInt8}) {
      expect(attend(table, precision, keys) == attend(trusted, precision, keys),
             "attention is the same on tiles");
    }
    const auto halves = attend(table, Precision::kBfloat16, keys);
    const double error = distance(halves, attend(trusted, Precision::kBfloat16, keys));
    expect(error <= 0x1p-9, "attention in bfloat16 on tiles differs by " + std::to_string(error));
  }
}

// AMX's products over emulated tiles, where the processor has the instructions around them.
void test_emulated_amx() {
  if (streamseg::available_levels().find("avx512bf16") == std::string::npos) {
    std::printf("no emulated AMX: this processor has no AVX-512 BF16\n");
    return;
  }
  const auto& table = *streamseg::emulated_amx_kernels();
  test_products(table);
  expect(streamseg::emulated_tiles_are_released(), "tiles are released");
  expect(streamseg_select_level("avx512vnni") == 0, "level is selected");
  test_trials(table, streamseg::active_kernels());
  test_attention(table, streamseg::active_kernels());
}

}  // namespace

int main() {
  std::string levels = streamseg_levels();
  levels += ",";
  for (size_t start = 0, end; (end = levels.find(',', start)) != std::string::npos; start = end + 1) {
    const std::string level = levels.substr(start, end - start);
    expect(streamseg_select_level(level.c_str()) == 0, "level is selected");
    test_products(streamseg::active_kernels());
  }
  test_emulated_amx();
  return report();
}
