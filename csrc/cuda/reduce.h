// Sums and maxima over a warp, in one order; every lane gets the same bits.

#pragma once

#include "device.h"

namespace electra_kernels {

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// Of a NaN and a number, the number.
struct Maximum {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// combine(a, b) is the same as combine(b, a).
template <typename T, typename Combine>
__device__ T reduce_warp(T value, const Combine& combine) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

}  // namespace electra_kernels
