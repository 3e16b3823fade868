// The gradient of a row of logits with a known log-sum-exp, tile by tile.

#pragma once

#include "scan.h"

namespace electra_kernels {
namespace {

// Factors of softmax(x) and one_hot(target) in a row's gradient. They differ only with a z-loss or an
// upstream gradient of the log-sum-exp.
struct Factors {
  float soft_max, one_hot;
};

__device__ inline Factors factors_of(float scale, float z_loss, const LogSumExp& parts) {
  return {scale * (1 + 2 * z_loss * (parts.maximum + parts.log_sum)), scale};
}

// x = softmax(x) * factors.soft_max - one_hot(target) * factors.one_hot for a tile that begins at column
// `first`. At the target, softmax - 1 would lose all digits of a loss near 0; expm1 of `distance`, the
// target's logit minus the log-sum-exp, does not. A negative target means that there is none.
template <typename T>
__device__ void soft_max_less_target(int first, const Columns& columns, const LogSumExp& logsumexp,
                                     int target, float distance, const Factors& factors, Share<T>& x) {
  const float2 maximum = pair_of(-logsumexp.maximum), log_sum = pair_of(-logsumexp.log_sum);
  for (int v = 0; v < kVectors<T>; ++v) {
    // exp2f keeps denormal numbers: a large upstream gradient may make them normal.
    for (int i = 0; i < kPerVector<T>; i += 2) {
      const float2 logits = make_float2(x[v][i], x[v][i + 1]);
      const float2 power = multiply(add(add(logits, maximum), log_sum), pair_of(kLog2E));
      const float2 result = multiply(make_float2(exp2f(power.x), exp2f(power.y)), pair_of(factors.soft_max));
      x[v][i] = result.x;
      x[v][i + 1] = result.y;
    }
  }
  const float rest = expf(distance) * (factors.soft_max - factors.one_hot);
  replace_column<T>(first, columns, target, expm1f(distance) * factors.one_hot + rest, x);
}

}  // namespace
}  // namespace electra_kernels
