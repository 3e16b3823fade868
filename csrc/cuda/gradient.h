// The gradient of a row of logits with a known log-sum-exp, tile by tile.

#pragma once

#include "scan.h"

namespace electra_kernels {
namespace {

// Factors of a row's gradient: (softmax(x) - one_hot(target)) * loss + softmax(x) * logsumexp.
struct Factors {
  float loss, logsumexp;
};

// `upstream` is that of the log-sum-exp. Without a z-loss its infinite value in a bad row has no effect.
__device__ inline Factors factors_of(float scale, float z_loss, const LogSumExp& parts, float upstream = 0) {
  const float of_z_loss = z_loss == 0 ? 0 : scale * (2 * z_loss * (parts.maximum + parts.log_sum));
  return {scale, of_z_loss + upstream};
}

// x = the gradient of a tile that begins at column `first`. At the target, softmax - 1 would lose all digits
// of a loss near 0; expm1 of `distance`, the target's logit minus the log-sum-exp, does not. A negative
// target means that there is none.
template <typename T>
__device__ void soft_max_less_target(int first, const Columns& columns, const LogSumExp& logsumexp,
                                     int target, float distance, const Factors& factors, Share<T>& x) {
  const float2 maximum = pair_of(-logsumexp.maximum), log_sum = pair_of(-logsumexp.log_sum);
  for (int v = 0; v < kVectors<T>; ++v) {
    // exp2f keeps denormal numbers: a large upstream gradient may make them normal.
    for (int i = 0; i < kPerVector<T>; i += 2) {
      const float2 logits = make_float2(x[v][i], x[v][i + 1]);
      const float2 power = multiply(add(add(logits, maximum), log_sum), pair_of(kLog2E));
      const float2 result =
          multiply(make_float2(exp2f(power.x), exp2f(power.y)), pair_of(factors.loss + factors.logsumexp));
      x[v][i] = result.x;
      x[v][i + 1] = result.y;
    }
  }
  const float rest = factors.logsumexp == 0 ? 0 : expf(distance) * factors.logsumexp;
  replace_column<T>(first, columns, target, expm1f(distance) * factors.loss + rest, x);
}

}  // namespace
}  // namespace electra_kernels
