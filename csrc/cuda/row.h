// A row of logits in memory, of any strides, as tiles of vectors.
//
// Tiles begin at the 16-byte boundaries of memory, not at those of the row: a row that starts at any element
// (of 30,522 bfloat16 every row but each fourth does) is read by whole vectors all the same, but for its
// first and its last.

#pragma once

#include "elements.h"

namespace electra_kernels {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr float kNaN = __builtin_nanf("");

// Of a tile, those of a lane.
template <typename T>
constexpr int kVectors = kTile / (kWarp * kPerVector<T>);
template <typename T>
using Share = float[kVectors<T>][kPerVector<T>];

template <typename T>
struct Row {
  T* logits;
  const float* bias;  // [size] or null
  int64_t stride;
  int size;

  __device__ bool has(int column) const { return column >= 0 && column < size; }
  __device__ T& operator[](int column) const { return logits[column * stride]; }

  // Whether `count` columns are a run of whole vectors.
  __device__ bool has_vectors(int column, int count) const {
    return stride == 1 && EK_BOUND(sampling_start_of_row, column >= 0) &&
           EK_BOUND(sampling_end_of_row, column + count <= size) &&
           EK_BOUND(memory_aligned, is_aligned(logits + column));
  }

  // Columns by which a 16-byte boundary comes before the first.
  __device__ int shift() const {
    return stride == 1 ? static_cast<int>(reinterpret_cast<uintptr_t>(logits) % 16 / sizeof(T)) : 0;
  }
};

template <typename T>
__device__ Row<T> row_at(const LogitRows& rows, int64_t index) {
  return {static_cast<T*>(rows.data) + offset(rows.layout, index), rows.bias, rows.stride, rows.size};
}

// NaN where there is no such column.
template <typename T>
__device__ float logit_at(const Row<T>& row, int64_t column) {
  if (static_cast<uint64_t>(column) >= static_cast<uint64_t>(row.size)) return kNaN;
  const float x = to_float(row[static_cast<int>(column)]);
  return row.bias == nullptr ? x : x + row.bias[column];
}

template <typename T>
__device__ void add_bias(const Row<T>& row, int column, float (&x)[kPerVector<T>]) {
  const float* const bias = row.bias + column;
  if (column >= 0 && EK_BOUND(linear_mlm_head_end_of_bias, column + kPerVector<T> <= row.size) &&
      is_aligned(bias)) {
    for (int i = 0; i < kPerVector<T>; i += 4) {
      float four[4];
      load_vector(bias + i, four);
      for (int k = 0; k < 4; ++k) x[i + k] += four[k];
    }
  } else {
    for (int i = 0; i < kPerVector<T>; ++i) {
      if (EK_BOUND(linear_mlm_head_columns_of_bias, row.has(column + i))) x[i] += bias[i];
    }
  }
}

// Neighbours as floats, bias added; -inf outside of the row.
template <typename T>
__device__ void load_columns(const Row<T>& row, int column, float (&x)[kPerVector<T>]) {
  if (row.has_vectors(column, kPerVector<T>)) {
    load_vector(row.logits + column, x);
  } else {
    for (int i = 0; i < kPerVector<T>; ++i) {
      x[i] = EK_BOUND(sampling_columns_read, row.has(column + i)) ? to_float(row[column + i]) : -kInfinity;
    }
  }
  if (row.bias != nullptr) add_bias(row, column, x);
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

// Where a lane's share of a tile that begins at column `first` lies: vector v at `begin + v * step`.
struct Places {
  int begin;
  int step;
};

// Neighbours are in neighbouring lanes, for loads that a warp makes at once.
template <typename T>
__device__ Places interleaved(int first) {
  return {first + lane() * kPerVector<T>, kWarp * kPerVector<T>};
}

// Neighbours are in one lane, for prefix sums.
template <typename T>
__device__ Places in_runs(int first) {
  return {first + lane() * kVectors<T> * kPerVector<T>, kPerVector<T>};
}

template <typename T>
__device__ void load_tile(const Row<T>& row, int first, const Places& places, Share<T>& x) {
  if (row.has_vectors(first, kTile)) {
    for (int v = 0; v < kVectors<T>; ++v) load_vector(row.logits + places.begin + v * places.step, x[v]);
    if (row.bias == nullptr) return;
    for (int v = 0; v < kVectors<T>; ++v) add_bias(row, places.begin + v * places.step, x[v]);
  } else {
    for (int v = 0; v < kVectors<T>; ++v) load_columns(row, places.begin + v * places.step, x[v]);
  }
}

template <typename T>
__device__ void store_tile(const Row<T>& row, const Places& places, const Share<T>& x) {
  for (int v = 0; v < kVectors<T>; ++v) store_columns(row, places.begin + v * places.step, x[v]);
}

// In the lane that has the column; in the others it says nothing.
template <typename T>
__device__ float column_of(const Places& places, int column, const Share<T>& x) {
  float found = 0;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) {
      if (places.begin + v * places.step + i == column) found = x[v][i];
    }
  }
  return found;
}

// Puts a value in the place of a column's, if that is in the tile.
template <typename T>
__device__ void replace_column(int first, const Places& places, int column, float value, Share<T>& x) {
  if (column < first || column >= first + kTile) return;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) {
      if (places.begin + v * places.step + i == column) x[v][i] = value;
    }
  }
}

}  // namespace
}  // namespace electra_kernels
