// Gradients of rows of logits that the forward has kept, and the factor of a gradient that it has written.

#include "gradient.h"

namespace electra_kernels {
namespace {

constexpr int kThreads = 256;

// The gradient of rows whose log-sum-exp is known. A block has one tile per warp.
template <typename T>
__global__ void __launch_bounds__(kScanWarps* kWarp, 3)
    gradient_row(const LogitRows rows, const GradientBatch batch, const LogitRows gradients,
                 const int blocks) {
  const int64_t index = blockIdx.x / blocks;
  const int tile = static_cast<int>(blockIdx.x % blocks * (blockDim.x / kWarp)) + warp();
  const Row<T> row = row_at<T>(rows, index), out = row_at<T>(gradients, index);
  const int first = tile * kTile - out.shift();
  if (tile >= tiles_of(row.size)) return;
  const int64_t target = batch.targets == nullptr ? -1 : batch.targets[index];
  const Columns columns = interleaved<T>(first);
  Share<T> x;
  if (batch.targets != nullptr && target == batch.ignore_index) {
    for (int v = 0; v < kVectors<T>; ++v) {
      for (int i = 0; i < kPerVector<T>; ++i) x[v][i] = 0;
    }
  } else {
    const double upstream = batch.upstream == nullptr ? 1 : batch.upstream[batch.is_per_row ? index : 0];
    const double divisor = batch.denominator == nullptr ? 1 : *batch.denominator;
    const float scale = static_cast<float>(upstream * reciprocal_or_zero(divisor));
    load_tile_unaligned(row, first, columns, x);
    const LogSumExp logsumexp = batch.logsumexp_parts[index];
    const float of_logsumexp = batch.logsumexp_upstream == nullptr ? 0 : batch.logsumexp_upstream[index];
    const Factors factors = factors_of(scale, batch.z_loss, logsumexp, of_logsumexp);
    const int column = target < row.size ? static_cast<int>(target) : -1;
    const float distance = (column_of<T>(columns, column, x) - logsumexp.maximum) - logsumexp.log_sum;
    soft_max_less_target<T>(first, columns, logsumexp, column, distance, factors, x);
  }
  store_tile(out, columns, x);
}

// Only as many blocks as run at once are launched, and each handles several tiles per warp. So few blocks
// have to start and end when the factor is 1.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scale_row(const LogitRows rows, const float* const factors, const bool is_per_row, const int blocks) {
  if (!is_per_row && *factors == 1) return;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int64_t i = blockIdx.x; i < rows.count * blocks; i += gridDim.x) {
    const int64_t index = i / blocks;
    const int tile = static_cast<int>(i % blocks) * warps + warp();
    if (tile >= tiles_of(rows.size)) continue;
    const float factor = factors[is_per_row ? index : 0];
    const Row<T> row = row_at<T>(rows, index);
    const int first = tile * kTile - row.shift();
    const Columns columns = interleaved<T>(first);
    Share<T> x;
    load_tile(row, first, columns, x);
    for (int v = 0; v < kVectors<T>; ++v) {
      for (int k = 0; k < kPerVector<T>; ++k) x[v][k] *= factor;
    }
    store_tile(row, columns, x);
  }
}

}  // namespace

void gradient_rows(const LogitRows& rows, const GradientBatch& batch, const LogitRows& gradient,
                   cudaStream_t stream) {
  const int warps = warps_of(rows), blocks = (tiles_of(rows.size) + warps - 1) / warps;
  with_type(rows.type, [&](auto zero) {
    launch(gradient_row<decltype(zero)>, {rows.count * blocks, warps * kWarp, stream}, rows, batch, gradient,
           blocks);
  });
}

void scale_rows(const LogitRows& rows, const float* factors, bool is_per_row, cudaStream_t stream) {
  const int warps = warps_of(rows), blocks = (tiles_of(rows.size) + warps - 1) / warps;
  const int64_t at_once = 8 * current_device().multiprocessors;
  with_type(rows.type, [&](auto zero) {
    launch(scale_row<decltype(zero)>, {min(rows.count * blocks, at_once), warps * kWarp, stream}, rows,
           factors, is_per_row, blocks);
  });
}

}  // namespace electra_kernels
