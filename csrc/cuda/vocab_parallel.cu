// One slice of a vocabulary that is spread over ranks: the scan of the row without its draw, because which
// rank draws depends on the sums of all slices. A row is read once.

#include "ring.h"

namespace electra_kernels {
namespace {

// Adds up the tiles. Called by one warp.
__device__ SliceSums sum_slice(const Tiles& tiles, float inverse_temperature) {
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

// A slice as scan_rows asks for it; the label of a row is its target.
template <typename T>
struct SumsOfRow {
  const SliceBatch& batch;

  __device__ int64_t label(int64_t index) const { return batch.targets[index]; }
  __device__ bool skips(int64_t target) const { return target == batch.ignore_index; }
  __device__ float inverse_temperature() const { return batch.inverse_temperature; }
  __device__ int banned(const LogitRows& rows, int64_t target) const {
    return batch.ban_original && target >= 0 && target < rows.size ? static_cast<int>(target) : -1;
  }
  __device__ void finish(const LogitRows& rows, int64_t index, const Tiles& tiles, T*) const {
    const int64_t target = label(index);
    SliceSums sums = {0, 0, 0, 0};
    if (!skips(target)) {
      sums = sum_slice(tiles, batch.inverse_temperature);
      if (target >= 0 && target < rows.size) sums.target_logit = logit_at(row_at<T>(rows, index), target);
    }
    if (lane() == 0) batch.sums[index] = sums;
  }
};

template <typename T>
__global__ void __launch_bounds__(kScanWarps* kWarp, kScanBlocks)
    slice_sums(const __grid_constant__ LogitRows rows, const __grid_constant__ SliceBatch batch,
               float* const scratch, const __grid_constant__ Parts parts) {
  scan_rows<T>(rows, SumsOfRow<T>{batch}, scratch, parts);
}

}  // namespace

void sum_slices(const LogitRows& rows, const SliceBatch& batch, float* scratch, cudaStream_t stream) {
  with_type(rows.type, [&](auto zero) {
    using T = decltype(zero);
    scan_in_parts<T>(rows, scratch, stream, Overlap::kNone, [&](const Parts& parts, const Launch& shape) {
      launch(slice_sums<T>, shape, rows, batch, scratch, parts);
    });
  });
}

}  // namespace electra_kernels
