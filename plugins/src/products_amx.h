// Matrix products in AMX's tiles: 16 rows of activations times 16 columns, 64 bytes deep; tdpbusd on
// 8-bit integers, tdpbf16ps on bfloat16 numbers. Denormal bfloat16 numbers count as zero.
//
// Weights are packed as for avx512bf16, with the depth padded to 64 bytes: sixteen words of sixteen
// columns are a tile. `T` has the instructions on numbered tiles: AmxTiles, or an emulation in tests.
#pragma once

#include "products_avx512bf16.h"

namespace streamseg {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // of a row
constexpr int kTileWords = 16;  // of a row

// The operand of ldtilecfg.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

#if defined(__AMX_TILE__)
struct AmxTiles {
  static void configure(const TileConfig& config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  static void release() { __asm__ volatile("tilerelease" : : : "memory"); }
  template <int Tile>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(Tile) : "memory");
  }
  template <int Tile>
  static void load(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile) : "memory");
  }
  template <int Tile>
  static void store(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(Tile) : "memory");
  }
  // sums += a b: a unsigned, b signed.
  template <int Sums, int A, int B>
  static void add_integers() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B) : "memory");
  }
  template <int Sums, int A, int B>
  static void add_bfloat16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B) : "memory");
  }
};
#endif

// Tiles 0 to 3: sums of row tile i and column tile h at 2 i + h. Tiles 4 and 5: activations. Tiles 6
// and 7: weights.
constexpr int kActivations = 4;
constexpr int kWeights = 6;

inline void describe_tile(TileConfig& config, int tile, int64_t rows) {
  config.rows[tile] = static_cast<uint8_t>(rows);
  config.row_bytes[tile] = rows > 0 ? kTileBytes : 0;
}

// For blocks of up to 32 rows.
template <class T>
void configure_tiles(int64_t rows) {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 2; ++i) {
    const int64_t left = rows - i * kTileRows;
    const int64_t height = left < 0 ? 0 : left < kTileRows ? left : kTileRows;
    for (int h = 0; h < 2; ++h) describe_tile(config, 2 * i + h, height);
    describe_tile(config, kActivations + i, height);
    describe_tile(config, kWeights + i, kTileRows);
  }
  T::configure(config);
}

template <class T, class D, int Sums, int A, int B>
void add_products() {
  if constexpr (D::kIntegers) {
    T::template add_integers<Sums, A, B>();
  } else {
    T::template add_bfloat16<Sums, A, B>();
  }
}

// Sums of `RowTiles` tiles of rows times `ColumnTiles` tiles of columns, `words` deep.
template <class T, class D, int RowTiles, int ColumnTiles>
void sum_tiles(const uint32_t* a, int64_t words, const uint32_t* panel,
               uint32_t (*sums)[kTileRows * kTileWords]) {
  constexpr int64_t kPanelBytes = 2 * kTileBytes;
  constexpr bool kTwo = RowTiles == 2;
  constexpr bool kWide = ColumnTiles == 2;
  T::template zero<0>();
  if constexpr (kWide) T::template zero<1>();
  if constexpr (kTwo) T::template zero<2>();
  if constexpr (kTwo && kWide) T::template zero<3>();
  for (int64_t k = 0; k < words; k += kTileWords) {
    const uint32_t* b = panel + k * 2 * kTileWords;
    T::template load<kWeights>(b, kPanelBytes);
    T::template load<kActivations>(a + k, 4 * words);
    add_products<T, D, 0, kActivations, kWeights>();
    if constexpr (kWide) {
      T::template load<kWeights + 1>(b + kTileWords, kPanelBytes);
      add_products<T, D, 1, kActivations, kWeights + 1>();
    }
    if constexpr (kTwo) {
      T::template load<kActivations + 1>(a + kTileRows * words + k, 4 * words);
      add_products<T, D, 2, kActivations + 1, kWeights>();
    }
    if constexpr (kTwo && kWide) add_products<T, D, 3, kActivations + 1, kWeights + 1>();
  }
  T::template store<0>(sums[0], kTileBytes);
  if constexpr (kWide) T::template store<1>(sums[1], kTileBytes);
  if constexpr (kTwo) T::template store<2>(sums[2], kTileBytes);
  if constexpr (kTwo && kWide) T::template store<3>(sums[3], kTileBytes);
}

// Rows [0, rows) of a block, at most 32, times one panel of columns.
template <class T, class D>
void tile_block(const uint32_t* a, int64_t rows, int64_t words, const uint32_t* panel,
                const float* row_scale, const float* scale, const int32_t* column_sums, float* c,
                int64_t stride, int64_t left) {
  using V = Avx512Lanes;
  constexpr int W = V::kLanes;
  alignas(64) uint32_t sums[4][kTileRows * kTileWords];
  const bool wide = left > W;
  if (rows > kTileRows) {
    wide ? sum_tiles<T, D, 2, 2>(a, words, panel, sums) : sum_tiles<T, D, 2, 1>(a, words, panel, sums);
  } else {
    wide ? sum_tiles<T, D, 1, 2>(a, words, panel, sums) : sum_tiles<T, D, 1, 1>(a, words, panel, sums);
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int h = 0; h < (wide ? 2 : 1); ++h) {
      const auto row = D::load(sums[2 * (i / kTileRows) + h] + i % kTileRows * kTileWords);
      const auto unit = V::mul(V::set(row_scale[i]), V::load(scale + h * W));
      Blocks<V>::store(c + i * stride + h * W, V::mul(D::floats(row, column_sums + h * W), unit),
                       left - h * W);
    }
  }
}

// c [rows, columns], rows `stride` apart, = a [rows, words] times the packed weight. Leaves the
// thread's tiles released, as a new thread has them.
template <class T, class D>
void multiply_tiles(const float* a, const float* row_scale, int64_t rows, int64_t words,
                    const Packed& w, float* c, int64_t stride) {
  constexpr int64_t kBlock = 2 * kTileRows;
  const auto* bits = reinterpret_cast<const uint32_t*>(a);
  const auto run = [&](int64_t begin, int64_t end, int64_t height) {
    for (int64_t n = 0; begin < end && n < w.columns; n += 2 * kTileWords) {
      const auto* panel = static_cast<const uint32_t*>(w.panels) + n * words;
      for (int64_t i = begin; i < end; i += height) {
        tile_block<T, D>(bits + i * words, height, words, panel, row_scale + i, w.scale + n, w.sums + n,
                         c + i * stride + n, stride, w.columns - n);
      }
    }
  };
  const int64_t whole = rows / kBlock * kBlock;
  if (whole > 0) {
    configure_tiles<T>(kBlock);
    run(0, whole, kBlock);
  }
  if (whole < rows) {
    configure_tiles<T>(rows - whole);
    run(whole, rows, rows - whole);
  }
  T::release();
}

struct TileIntegers : Avx512Quads {
  static constexpr bool kIntegers = true;
};
struct TileBfloat16 : Avx512Pairs {
  static constexpr bool kIntegers = false;
};

template <class T>
struct AmxProducts : PairProducts<kTileBytes> {
  using Pairs = PairProducts<kTileBytes>;

  static void multiply(const float* a, const float* row_scale, int64_t rows, const Packed& w,
                       float* c, int64_t stride) {
    const int64_t words = Pairs::row_words(w.depth, w.precision);
    if (w.precision == Precision::kInt8) {
      multiply_tiles<T, TileIntegers>(a, row_scale, rows, words, w, c, stride);
    } else if (w.precision == Precision::kBfloat16) {
      multiply_tiles<T, TileBfloat16>(a, row_scale, rows, words, w, c, stride);
    } else {
      Pairs::multiply(a, row_scale, rows, w, c, stride);
    }
  }
};

}  // namespace
}  // namespace streamseg
