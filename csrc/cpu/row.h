// A row of logits in memory, of any strides, as tiles of floats.

#pragma once

#include "kernels.h"
#include "vector.h"

namespace electra_kernels {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr int kUnroll = 4;  // independent chains of sums and maxima, for instruction-level parallelism
constexpr int64_t kStep = kUnroll * kLanes;
static_assert(kTile % kStep == 0, "a tile is a whole number of steps");

template <typename T>
inline float logit_at(const Row& row, int64_t index) {
  const float x = to_float(static_cast<const T*>(row.logits)[index * row.stride]);
  return row.bias == nullptr ? x : x + row.bias[index];
}

// The logit of the target, or -inf if another slice of the vocabulary has it.
template <typename T>
inline float target_logit_of(const Row& row, int64_t target) {
  return target >= 0 && target < row.size ? logit_at<T>(row, target) : -kInfinity;
}

// Loads columns [start, start + count) as floats, adds the bias, and pads with -inf to a whole step. Returns
// the maximum. It may miss a NaN, but the sum of exponentials does not.
template <typename T>
inline float load_tile(const Row& row, int64_t start, int64_t count, float* tile) {
  const T* const logits = static_cast<const T*>(row.logits) + start * row.stride;
  const float* const bias = row.bias == nullptr ? nullptr : row.bias + start;
  Floats high[kUnroll];
  for (Floats& part : high) part = broadcast(-kInfinity);
  const int64_t whole = row.stride == 1 ? count / kStep * kStep : 0;
  for (int64_t i = 0; i < whole; i += kStep) {
    for (int k = 0; k < kUnroll; ++k) {
      Floats x = load(logits + i + k * kLanes);
      if (bias != nullptr) x = x + load(bias + i + k * kLanes);
      high[k] = maximum(high[k], x);
      store(tile + i + k * kLanes, x);
    }
  }
  if (whole < count) {
    int64_t i = whole;
    for (; i < count; ++i) tile[i] = to_float(logits[i * row.stride]) + (bias == nullptr ? 0 : bias[i]);
    for (; i % kStep != 0; ++i) tile[i] = -kInfinity;
    for (i = whole; i < count; i += kLanes) high[0] = maximum(high[0], load(tile + i));
  }
  return highest(maximum(maximum(high[0], high[1]), maximum(high[2], high[3])));
}

template <typename T>
inline void store_tile(const float* tile, int64_t count, T* out, int64_t stride) {
  const int64_t whole = stride == 1 ? count / kLanes * kLanes : 0;
  for (int64_t i = 0; i < whole; i += kLanes) store(out + i, load(tile + i));
  for (int64_t i = whole; i < count; ++i) convert(tile[i], out[i * stride]);
}

}  // namespace
}  // namespace electra_kernels
