// The window grid on an unshifted map: the tokens of each cell. Shared by the CPU and CUDA kernels.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define STREAMSEG_HD __host__ __device__ __forceinline__
#else
#define STREAMSEG_HD inline
#endif

namespace streamseg {

// The map is cut at 0, offset, offset + window, ..., extent; with offset 0 at 0, window, 2 window, ...
struct Bands {
  int32_t extent;
  int32_t window;
  int32_t offset;

  STREAMSEG_HD int32_t first() const { return offset > 0 ? offset : window; }

  STREAMSEG_HD int32_t count() const {
    return extent <= first() ? 1 : 1 + (extent - first() + window - 1) / window;
  }

  STREAMSEG_HD int32_t begin(int32_t band) const {
    return band == 0 ? 0 : first() + (band - 1) * window;
  }

  STREAMSEG_HD int32_t end(int32_t band) const {
    const int32_t cut = first() + band * window;
    return cut < extent ? cut : extent;
  }
};

// One cell: the rectangle whose tokens, read row by row, form one sequence.
struct Cell {
  int32_t top;
  int32_t left;
  int32_t height;
  int32_t width;

  STREAMSEG_HD int64_t tokens() const { return static_cast<int64_t>(height) * width; }

  // Index on the map, in raster order, of the cell's token `step`.
  STREAMSEG_HD int64_t token(int64_t step, int32_t map_w) const {
    return (top + step / width) * map_w + left + step % width;
  }
};

// Row bands times column bands; cells are numbered row by row.
struct WindowGrid {
  Bands rows;
  Bands cols;

  STREAMSEG_HD int64_t tokens() const { return static_cast<int64_t>(rows.extent) * cols.extent; }

  STREAMSEG_HD int64_t cells() const { return static_cast<int64_t>(rows.count()) * cols.count(); }

  STREAMSEG_HD Cell cell(int64_t index) const {
    const auto number = static_cast<int32_t>(index);  // ops.h bounds the number of cells
    const int32_t row = number / cols.count();
    const int32_t col = number - row * cols.count();
    return {rows.begin(row), cols.begin(col), rows.end(row) - rows.begin(row),
            cols.end(col) - cols.begin(col)};
  }
};

}  // namespace streamseg
