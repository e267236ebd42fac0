// AMX's tiles as Intel's manual describes them (volume 2, the pseudo-code of each instruction), in plain
// C++, and the products that products_amx.h builds on them. Stricter than the processor: what raises an
// exception there ends the test, and so does a tile that is used without a configuration.
#include "amx_emulated.h"

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "products_amx.h"

namespace streamseg {
namespace {

struct Tile {
  int rows = 0;
  int row_bytes = 0;
  unsigned char bytes[kTileRows][kTileBytes] = {};
};

struct Unit {
  bool configured = false;
  Tile tiles[8];
};
thread_local Unit unit;

void demand(bool holds, const char* rule) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: AMX: %s\n", rule);
  std::abort();
}

template <class Number>
Number read(const unsigned char* from) {
  Number number;
  std::memcpy(&number, from, sizeof(Number));
  return number;
}

// Denormal numbers are zero, as operands and as results.
float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

float to_float(uint16_t bfloat16) {
  const uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return flush(x);
}

struct EmulatedTiles {
  static void configure(const TileConfig& config) {
    demand(config.palette == 1 && config.start_row == 0, "ldtilecfg takes palette 1 and row 0");
    for (const auto reserved : config.reserved) demand(reserved == 0, "reserved bytes are zero");
    unit = Unit();
    unit.configured = true;
    for (int i = 0; i < 16; ++i) {
      const int rows = config.rows[i];
      const int row_bytes = config.row_bytes[i];
      demand(i < 8 || (rows == 0 && row_bytes == 0), "there are eight tiles");
      demand(rows <= kTileRows && row_bytes <= kTileBytes, "a tile has at most 16 rows of 64 bytes");
      demand((rows == 0) == (row_bytes == 0), "a tile has rows and bytes, or neither");
      if (i < 8) unit.tiles[i].rows = rows;
      if (i < 8) unit.tiles[i].row_bytes = row_bytes;
    }
  }

  static void release() { unit = Unit(); }

  static Tile& tile(int index) {
    demand(unit.configured && unit.tiles[index].rows > 0, "a tile is used with a configuration only");
    return unit.tiles[index];
  }

  template <int Index>
  static void zero() {
    std::memset(tile(Index).bytes, 0, sizeof(Tile::bytes));
  }

  template <int Index>
  static void load(const void* from, int64_t stride) {
    zero<Index>();
    Tile& to = tile(Index);
    for (int i = 0; i < to.rows; ++i) {
      std::memcpy(to.bytes[i], static_cast<const char*>(from) + i * stride,
                  static_cast<size_t>(to.row_bytes));
    }
  }

  template <int Index>
  static void store(void* to, int64_t stride) {
    const Tile& from = tile(Index);
    for (int i = 0; i < from.rows; ++i) {
      std::memcpy(static_cast<char*>(to) + i * stride, from.bytes[i],
                  static_cast<size_t>(from.row_bytes));
    }
  }

  template <int Sums, int A, int B>
  static void check_shapes() {
    static_assert(Sums != A && Sums != B && A != B, "three different tiles");
    demand(tile(Sums).rows == tile(A).rows, "sums and a have the same rows");
    demand(tile(Sums).row_bytes == tile(B).row_bytes, "sums and b have the same columns");
    demand(tile(A).row_bytes / 4 == tile(B).rows, "a is as deep as b");
  }

  template <int Sums, int A, int B>
  static void add_integers() {
    check_shapes<Sums, A, B>();
    const Tile& a = tile(A);
    const Tile& b = tile(B);
    for (int m = 0; m < a.rows; ++m) {
      for (int k = 0; k < a.row_bytes / 4; ++k) {
        for (int n = 0; n < b.row_bytes / 4; ++n) {
          auto sum = read<uint32_t>(tile(Sums).bytes[m] + 4 * n);
          for (int i = 0; i < 4; ++i) {
            const int32_t x = a.bytes[m][4 * k + i];
            const int32_t y = static_cast<int8_t>(b.bytes[k][4 * n + i]);
            sum += static_cast<uint32_t>(x * y);
          }
          std::memcpy(tile(Sums).bytes[m] + 4 * n, &sum, 4);
        }
      }
    }
  }

  template <int Sums, int A, int B>
  static void add_bfloat16() {
    check_shapes<Sums, A, B>();
    const Tile& a = tile(A);
    const Tile& b = tile(B);
    for (int m = 0; m < a.rows; ++m) {
      float pairs[2 * kTileWords] = {};
      for (int k = 0; k < a.row_bytes / 4; ++k) {
        for (int n = 0; n < b.row_bytes / 4; ++n) {
          for (int i = 0; i < 2; ++i) {
            const float x = to_float(read<uint16_t>(a.bytes[m] + 4 * k + 2 * i));
            const float y = to_float(read<uint16_t>(b.bytes[k] + 4 * n + 2 * i));
            pairs[2 * n + i] = flush(std::fma(x, y, pairs[2 * n + i]));
          }
        }
      }
      for (int n = 0; n < b.row_bytes / 4; ++n) {
        const float old = flush(read<float>(tile(Sums).bytes[m] + 4 * n));
        const float sum = flush(old + flush(pairs[2 * n] + pairs[2 * n + 1]));
        std::memcpy(tile(Sums).bytes[m] + 4 * n, &sum, 4);
      }
    }
  }
};

}  // namespace

const KernelTable<float>* emulated_amx_kernels() {
  return kernel_table<Avx512Lanes, AmxProducts<EmulatedTiles>>("emulated AMX");
}

bool emulated_tiles_are_released() { return !unit.configured; }

}  // namespace streamseg
#else
namespace streamseg {
const KernelTable<float>* emulated_amx_kernels() { return nullptr; }
bool emulated_tiles_are_released() { return true; }
}  // namespace streamseg
#endif
