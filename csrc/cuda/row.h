// A row of logits in memory, of any strides, as tiles of vectors.
//
// Tiles begin at 16-byte boundaries of memory, not at the first element of the row. So whole vectors can be
// read, except for the first and the last one, even if the row does not begin at such a boundary. With 30,522
// columns in bfloat16 only one row in four does.

#pragma once

#include "vector.h"

namespace electra_kernels {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr float kNaN = __builtin_nanf("");

// Vectors that a lane has of a tile, and their values.
template <typename T>
constexpr int kVectors = kTile / (kWarp * kPerVector<T>);
template <typename T>
using Share = float[kVectors<T>][kPerVector<T>];

template <typename T>
struct Row {
  T* logits;
  int64_t stride;
  int size;

  __device__ bool has(int column) const { return column >= 0 && column < size; }
  __device__ T& operator[](int column) const { return logits[column * stride]; }

  // Whether `count` columns from `column` on can be accessed as whole vectors.
  __device__ bool has_vectors(int column, int count) const {
    return stride == 1 && EK_BOUND(sampling_start_of_row, column >= 0) &&
           EK_BOUND(sampling_end_of_row, column + count <= size) &&
           EK_BOUND(memory_aligned, is_aligned(logits + column));
  }

  // Columns from the last 16-byte boundary to the first column of the row.
  __device__ int shift() const {
    return stride == 1 ? static_cast<int>(reinterpret_cast<uintptr_t>(logits) % 16 / sizeof(T)) : 0;
  }
};

template <typename T>
__device__ Row<T> row_at(const LogitRows& rows, int64_t index) {
  return {static_cast<T*>(rows.data) + offset_of(rows.layout, index), rows.stride, rows.size};
}

// Logit of a column; NaN if the row has no such column.
template <typename T>
__device__ float logit_at(const Row<T>& row, int64_t column) {
  if (static_cast<uint64_t>(column) >= static_cast<uint64_t>(row.size)) return kNaN;
  return to_float(row[static_cast<int>(column)]);
}

// Columns one at a time as floats; -inf outside of the row.
template <typename T>
__device__ void load_singly(const Row<T>& row, int column, float (&x)[kPerVector<T>]) {
  for (int i = 0; i < kPerVector<T>; ++i) {
    x[i] = EK_BOUND(sampling_columns_read, row.has(column + i)) ? to_float(row[column + i]) : -kInfinity;
  }
}

// A vector of columns as floats; -inf outside of the row.
template <typename T>
__device__ void load_columns(const Row<T>& row, int column, float (&x)[kPerVector<T>]) {
  if (row.has_vectors(column, kPerVector<T>)) {
    load_vector(row.logits + column, x);
  } else {
    load_singly(row, column, x);
  }
}

template <typename T>
__device__ void store_columns(const Row<T>& row, int column, const float (&x)[kPerVector<T>]) {
  if (row.has_vectors(column, kPerVector<T>)) {
    store_vector(row.logits + column, x);
    return;
  }
  for (int i = 0; i < kPerVector<T>; ++i) {
    if (EK_BOUND(memory_columns_written, row.has(column + i))) convert(x[i], row[column + i]);
  }
}

// The columns that a lane has of a tile: vector v begins at column `begin + v * step`.
struct Columns {
  int begin;
  int step;
};

// Adjacent vectors are in adjacent lanes, so that the loads of a warp coalesce. `first` is the tile's first
// column.
template <typename T>
__device__ Columns interleaved(int first) {
  return {first + lane() * kPerVector<T>, kWarp * kPerVector<T>};
}

// A lane has a run of adjacent vectors, for prefix sums.
template <typename T>
__device__ Columns in_runs(int first) {
  return {first + lane() * kVectors<T> * kPerVector<T>, kPerVector<T>};
}

// A tile at an edge of the row has at most two vectors that are not whole. All others are asked for before
// any is used, so that the tile takes one round trip to memory, and one more for those two.
template <typename T>
__device__ void load_tile(const Row<T>& row, int first, const Columns& columns, Share<T>& x) {
  if (row.has_vectors(first, kTile)) {
    for (int v = 0; v < kVectors<T>; ++v) load_vector(row.logits + columns.begin + v * columns.step, x[v]);
  } else {
    uint4 bits[kVectors<T>] = {};
    bool is_whole[kVectors<T>];
    for (int v = 0; v < kVectors<T>; ++v) {
      const int column = columns.begin + v * columns.step;
      is_whole[v] = row.has_vectors(column, kPerVector<T>);
      if (is_whole[v]) bits[v] = load16(row.logits + column);
    }
    for (int v = 0; v < kVectors<T>; ++v) {
      to_floats<T>(bits[v], x[v]);
      if (!is_whole[v]) load_singly(row, columns.begin + v * columns.step, x[v]);
    }
  }
}

// For columns that begin at 16-byte boundaries of another row, whose alignment may differ.
template <typename T>
__device__ void load_tile_unaligned(const Row<T>& row, int first, const Columns& columns, Share<T>& x) {
  if (row.stride != 1 || row.shift() == static_cast<int>(static_cast<unsigned>(-first) % kPerVector<T>)) {
    load_tile(row, first, columns, x);
    return;
  }
  for (int v = 0; v < kVectors<T>; ++v) {
    const int column = columns.begin + v * columns.step;
    // The second of the two vectors has to end inside of the row as well.
    if (column >= 0 && EK_BOUND(memory_second_vector, column + 2 * kPerVector<T> <= row.size)) {
      to_floats<T>(load16_unaligned(row.logits + column), x[v]);
    } else {
      load_columns(row, column, x[v]);
    }
  }
}

template <typename T>
__device__ void store_tile(const Row<T>& row, const Columns& columns, const Share<T>& x) {
  for (int v = 0; v < kVectors<T>; ++v) store_columns(row, columns.begin + v * columns.step, x[v]);
}

// Starts to copy a vector some of whose columns are outside of the row, or any vector of a row with gaps.
// The copy has -inf outside of the row. Half-precision numbers that are no pair are copied at once.
template <typename T>
__device__ void copy_singly(const Row<T>& row, int column, const Row<T>& copy) {
  constexpr int kEach = 4 / static_cast<int>(sizeof(T));
  EK_ROLLED
  for (int i = column; i < column + kPerVector<T>; i += kEach) {
    const bool is_inside = row.has(i) && EK_BOUND(rows_end_of_pair, row.has(i + kEach - 1));
    if (is_inside && (kEach == 1 || row.stride == 1)) {
      copy4_later(&copy[i], &row[i]);
      continue;
    }
    for (int k = i; k < i + kEach; ++k) {
      if (EK_BOUND(rows_columns_copied, row.has(k))) {
        copy[k] = row[k];
      } else {
        convert(-kInfinity, copy[k]);
      }
    }
  }
}

// Starts to copy the columns of a tile that this lane will read. The copy has the alignment of the row, so
// that both have the same vectors.
template <typename T>
__device__ void copy_tile_later(const Row<T>& row, int first, const Columns& columns, const Row<T>& copy) {
  const bool is_whole = row.has_vectors(first, kTile);
  for (int v = 0; v < kVectors<T>; ++v) {
    const int column = columns.begin + v * columns.step;
    if (is_whole || row.has_vectors(column, kPerVector<T>)) {
      copy16_later(copy.logits + column, row.logits + column);
    } else {
      copy_singly(row, column, copy);
    }
  }
}

template <typename T>
__device__ void load_copied_tile(const Row<T>& copy, const Columns& columns, Share<T>& x) {
  for (int v = 0; v < kVectors<T>; ++v) load_vector(copy.logits + columns.begin + v * columns.step, x[v]);
}

// The value of a column, in the lane that has it; 0 in the other lanes.
template <typename T>
__device__ float column_of(const Columns& columns, int column, const Share<T>& x) {
  float found = 0;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) {
      if (columns.begin + v * columns.step + i == column) found = x[v][i];
    }
  }
  return found;
}

// Replaces the value of a column, if it is in the tile.
template <typename T>
__device__ void replace_column(int first, const Columns& columns, int column, float value, Share<T>& x) {
  if (column < first || column >= first + kTile) return;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) {
      if (columns.begin + v * columns.step + i == column) x[v][i] = value;
    }
  }
}

}  // namespace
}  // namespace electra_kernels
