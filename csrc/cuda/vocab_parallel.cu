// One slice of a vocabulary that is spread over ranks: the scan of the row without its draw, because which
// rank draws depends on the sums of all slices. A row is read once.

#include "scan.h"

namespace electra_kernels {
namespace {

// Adds up the tiles. Called by one warp.
__device__ SliceSums slice_sums(const Tiles& tiles, float inverse_temperature) {
  float maximum = -kInfinity;
  for (int t = lane(); t < tiles.count; t += kWarp) maximum = fmaxf(maximum, tiles.maximum[t]);
  maximum = reduce_warp(maximum, Maximum());
  const float reference = finite_or_zero(maximum);
  double total = 0, drawable = 0;
  for (int t = lane(); t < tiles.count; t += kWarp) {
    const float distance = tiles.maximum[t] - reference;
    total += tiles.total[t] * exponential(distance);
    drawable += tiles.drawable[t] * exponential(distance, inverse_temperature);
  }
  total = reduce_warp(total, Sum());
  drawable = reduce_warp(drawable, Sum());
  // The maximum may miss a NaN, but the sum of exponentials does not: it is NaN or +inf in a bad row.
  const float sum = static_cast<float>(total);
  return {sum < kInfinity ? maximum : sum, sum, static_cast<float>(drawable), -kInfinity};
}

template <typename T>
__global__ void __launch_bounds__(kScanWarps* kWarp, 3)
    sum_slice(const LogitRows rows, const SliceBatch batch, float* const scratch, const Parts parts) {
  EK_DYNAMIC_SHARED(shared_sums, float);
  const int64_t index = blockIdx.x / parts.count;
  const Row<T> row = row_at<T>(rows, index);
  const Tiles tiles = tiles_at(scratch == nullptr ? shared_sums : scratch + index * 3 * tiles_of(row.size),
                               row.size, batch.inverse_temperature);
  const int64_t target = batch.targets[index];
  const bool is_ignored = target == batch.ignore_index;
  const bool is_here = !is_ignored && target >= 0 && target < row.size;
  const Draw draw = {0, batch.ban_original && is_here ? static_cast<int>(target) : -1,
                     batch.inverse_temperature};
  if (parts.scans && !is_ignored) scan_part(row, row.shift(), draw, tiles, parts.count);
  EK_BARRIER(vocab_parallel_tiles_complete);
  // The last warp has the fewest tiles.
  if (!parts.draws || threadIdx.x / kWarp != blockDim.x / kWarp - 1) return;
  SliceSums sums = {0, 0, 0, 0};
  if (!is_ignored) sums = slice_sums(tiles, batch.inverse_temperature);
  if (is_here) sums.target_logit = logit_at(row, target);
  if (lane() == 0) batch.sums[index] = sums;
}

}  // namespace

void sum_slices(const LogitRows& rows, const SliceBatch& batch, float* scratch, cudaStream_t stream) {
  with_type(rows.type, [&](auto zero) {
    scan_in_parts(rows, scratch, stream, [&](const Parts& parts, const Launch& shape) {
      launch(sum_slice<decltype(zero)>, shape, rows, batch, scratch, parts);
    });
  });
}

}  // namespace electra_kernels
