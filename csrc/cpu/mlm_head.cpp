// Masked-LM loss, sample and gradient of one row of logits, fused into one scan:
//
//     loss = l - x[target] + z l^2        d/dx = softmax(x) (1 + 2 z l) - one_hot(target)
//
// with l = logsumexp(x).
//
// The exponentials that the log-sum-exp needs stay in the cache (a row of 30,522 columns has 122 KB) and
// become the gradient by one product, so that memory sees one read of the logits and one write of the
// gradient. The gradient may overwrite the logits: when the first element is written, nothing of the row is
// read from memory any more.

#include "scan.h"

namespace electra_kernels {
namespace {

// At the target, softmax - 1 would lose all digits of a loss near 0; expm1 of x[target] - logsumexp does not.
template <typename T>
inline void write_target(const Row& row, const GradientRow& gradient, double extra_scale, int64_t target,
                         double distance) {
  if (target < 0 || target >= row.size) return;
  const double rest = extra_scale == 0 ? 0 : __builtin_exp(distance) * extra_scale;
  const double value = __builtin_expm1(distance) * gradient.scale + rest;
  convert(static_cast<float>(value), static_cast<T*>(gradient.data)[target * gradient.stride]);
}

// out [count] = tile * factor
template <typename T>
inline void store_scaled(float* tile, int64_t count, float factor, T* out, int64_t stride) {
  const int64_t whole = stride == 1 ? count / kLanes * kLanes : 0;
  for (int64_t i = 0; i < whole; i += kLanes) store(out + i, load(tile + i) * factor);
  for (int64_t i = whole; i < count; ++i) convert(tile[i] * factor, out[i * stride]);
}

// Turns the exponentials that `scan_row` has kept, each relative to its tile's maximum, into the gradient.
template <typename T>
inline void write_gradient(const Row& row, const Draw& draw, int64_t target, const GradientRow& gradient,
                           float* scratch, const RowStatistics& statistics) {
  const double log_sum = statistics.is_bad ? __builtin_nan("") : statistics.log_sum;
  const double extra_scale = gradient.extra_scale(statistics.maximum + log_sum);
  const float soft_max_scale = static_cast<float>(gradient.scale + extra_scale);
  const Tiles tiles = tiles_in(scratch, row.size, draw.temperature != 1);
  for (int64_t t = 0; t < tiles.count; ++t) {
    tiles.maximum[t] =
        static_cast<float>((static_cast<double>(tiles.maximum[t]) - statistics.maximum) - log_sum);
  }
  for (int64_t t = 0; t < tiles.count; t += kLanes) {
    store(tiles.maximum + t, exponential(load(tiles.maximum + t)) * soft_max_scale);
  }
  for (int64_t t = 0; t < tiles.count; ++t) {
    const int64_t start = t * kTile;
    const int64_t count = start + kTile < row.size ? kTile : row.size - start;
    T* const out = static_cast<T*>(gradient.data) + start * gradient.stride;
    store_scaled(scratch + start, count, tiles.maximum[t], out, gradient.stride);
  }
  write_target<T>(row, gradient, extra_scale, target,
                  (static_cast<double>(statistics.target_logit) - statistics.maximum) - log_sum);
}

template <typename T>
void cross_entropy_row(const Row& row, const Draw& draw, int64_t target, const GradientRow& gradient,
                       float* scratch, RowStatistics& statistics) {
  statistics.target_logit = target_logit_of<T>(row, target);
  if (gradient.data == nullptr) {
    scan_row<T, false>(row, draw, scratch, statistics);
  } else {
    scan_row<T, true>(row, draw, scratch, statistics);
    write_gradient<T>(row, draw, target, gradient, scratch, statistics);
  }
}

template <typename T>
void gradient_row(const Row& row, int64_t target, const LogSumExp& logsumexp, const GradientRow& gradient) {
  const float target_logit = target_logit_of<T>(row, target);
  const double extra_scale = gradient.extra_scale(static_cast<double>(logsumexp.maximum) + logsumexp.log_sum);
  const float scale = static_cast<float>(gradient.scale + extra_scale);
  soft_max<T>(row, logsumexp, scale, static_cast<T*>(gradient.data), gradient.stride);
  write_target<T>(row, gradient, extra_scale, target,
                  (static_cast<double>(target_logit) - logsumexp.maximum) - logsumexp.log_sum);
}

template <typename T>
void scale_row(void* data, int64_t stride, int64_t size, float factor) {
  const Row row = {data, stride, size, nullptr};
  alignas(64) float tile[kTile];
  for (int64_t start = 0; start < size; start += kTile) {
    const int64_t count = start + kTile < size ? kTile : size - start;
    if (factor != 0) {
      load_tile<T>(row, start, count, tile);
    } else {
      for (float& x : tile) x = 0;
    }
    store_scaled(tile, count, factor, static_cast<T*>(data) + start * stride, stride);
  }
}

}  // namespace

const MlmHeadKernels EK_LEVEL::mlm_head = {
    {cross_entropy_row<float>, cross_entropy_row<BFloat16>, cross_entropy_row<Float16>},
    {gradient_row<float>, gradient_row<BFloat16>, gradient_row<Float16>},
    {scale_row<float>, scale_row<BFloat16>, scale_row<Float16>},
};

}  // namespace electra_kernels
