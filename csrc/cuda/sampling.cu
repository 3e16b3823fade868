// One draw per row of logits, and its log-sum-exp, in one scan.
//
// A row is read once, and only the tile that the token is drawn from a second time. Drawing with Gumbel noise
// writes and reads a tensor of noise as well. Tiles may be scanned in any order, because each sum is relative
// to the maximum of its own tile.

#include "ring.h"

namespace electra_kernels {
namespace {

// Sampling as scan_rows asks for it; the label of a row is its banned token.
template <typename T>
struct SampleOfRow {
  const SamplingBatch& batch;

  __device__ int64_t label(int64_t index) const { return batch.banned == nullptr ? -1 : batch.banned[index]; }
  __device__ bool skips(int64_t given) const { return batch.skips && given < 0; }
  __device__ float inverse_temperature() const { return batch.inverse_temperature; }
  __device__ int banned(const LogitRows& rows, int64_t given) const {
    return batch.bans && given >= 0 && given < rows.size ? static_cast<int>(given) : -1;
  }
  __device__ void finish(const LogitRows& rows, int64_t index, const Tiles& tiles, T* memory) const {
    const int64_t given = label(index);
    int token = -1;
    RowSums sums = {};
    if (!skips(given)) {
      const Row<T> row = row_at<T>(rows, index);
      const Draw draw = {batch.uniforms[index], banned(rows, given), batch.inverse_temperature};
      sums = sum_tiles(tiles, draw.banned < 0 ? -kInfinity : logit_at(row, draw.banned));
      token = draw_token(row, row.shift(), draw, tiles, choose(tiles, sums, draw), memory);
    }
    if (lane() != 0) return;
    batch.tokens[index] = token;
    if (batch.logsumexp == nullptr) return;
    const LogSumExp logsumexp = sums.logsumexp();
    batch.logsumexp_parts[index] = logsumexp;
    batch.logsumexp[index] = logsumexp.maximum + logsumexp.log_sum;
  }
};

template <typename T>
__global__ void __launch_bounds__(kScanWarps* kWarp, kScanBlocks)
    sample_row(const __grid_constant__ LogitRows rows, const __grid_constant__ SamplingBatch batch,
               float* const scratch, const __grid_constant__ Parts parts) {
  scan_rows<T>(rows, SampleOfRow<T>{batch}, scratch, parts);
}

}  // namespace

int64_t scan_scratch(const LogitRows& rows) {
  const bool is_on_chip = parts_of(rows) == 1 && 2 * sums_bytes(rows.size) <= kSumsBytes;
  return is_on_chip ? 0 : rows.count * 3 * tiles_of(rows.size);
}

void sample_rows(const LogitRows& rows, const SamplingBatch& batch, float* scratch, cudaStream_t stream) {
  with_type(rows.type, [&](auto zero) {
    using T = decltype(zero);
    scan_in_parts<T>(rows, scratch, stream, Overlap::kNone, [&](const Parts& parts, const Launch& shape) {
      launch(sample_row<T>, shape, rows, batch, scratch, parts);
    });
  });
}

}  // namespace electra_kernels
