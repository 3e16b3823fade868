// Sums, maxima and the like over a warp and over a block. Their order depends on the number of threads alone,
// and every thread gets the same bits.

#pragma once

#include "device.h"

namespace electra_kernels {

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Maximum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// combine(a, b) is the same as combine(b, a).
template <typename T, typename Combine>
__device__ T reduce_warp(T value, const Combine& combine) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

// By way of shared memory that may be used again for the next: a number for each warp.
template <typename T, int kWarps, typename Combine>
__device__ T reduce_block(T value, T (&scratch)[kWarps], const Combine& combine) {
  value = reduce_warp(value, combine);
  EK_BARRIER(sampling_reduction_read);
  if (lane() == 0) scratch[warp()] = value;
  EK_BARRIER(sampling_reduction_written);
  T total = scratch[0];
  for (int i = 1; i < kWarps; ++i) total = combine(total, scratch[i]);
  return total;
}

}  // namespace electra_kernels
