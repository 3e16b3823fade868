// One draw per row of logits, and its log-sum-exp, in one scan.
//
// One block reads a row once (several blocks do if there are too few rows), and only the tile that the token
// is drawn from a second time. Drawing with Gumbel noise writes and reads a tensor of noise as well. Tiles
// may be scanned in any order, because each sum is relative to the maximum of its own tile.

#include "scan.h"

namespace electra_kernels {
namespace {

template <typename T>
__global__ void __launch_bounds__(kScanWarps* kWarp, 3)
    sample_row(const LogitRows rows, const SamplingBatch batch, float* const scratch, const Parts parts) {
  EK_DYNAMIC_SHARED(shared_sums, float);
  const int64_t index = blockIdx.x / parts.count;
  const Row<T> row = row_at<T>(rows, index);
  const int shift = row.shift();
  const Tiles tiles = tiles_at(scratch == nullptr ? shared_sums : scratch + index * 3 * tiles_of(row.size),
                               row.size, batch.inverse_temperature);
  const int64_t given = batch.banned == nullptr ? -1 : batch.banned[index];
  const bool is_skipped = batch.skips && given < 0;
  const int banned = batch.bans && given >= 0 && given < row.size ? static_cast<int>(given) : -1;
  const Draw draw = {batch.uniforms[index], banned, batch.inverse_temperature};

  if (parts.scans && !is_skipped) scan_part(row, shift, draw, tiles, parts.count);
  EK_BARRIER(sampling_tiles_complete);
  // The last warp has the fewest tiles.
  if (!parts.draws || threadIdx.x / kWarp != blockDim.x / kWarp - 1) return;
  int token = -1;
  RowSums sums = {};
  if (!is_skipped) {
    sums = sum_tiles(tiles, banned < 0 ? -kInfinity : logit_at(row, banned));
    token = draw_token(row, shift, draw, tiles, choose(tiles, sums, draw));
  }
  if (lane() != 0) return;
  batch.tokens[index] = token;
  if (batch.logsumexp == nullptr) return;
  const LogSumExp logsumexp = sums.logsumexp();
  batch.logsumexp_parts[index] = logsumexp;
  batch.logsumexp[index] = logsumexp.maximum + logsumexp.log_sum;
}

}  // namespace

int64_t scan_scratch(const LogitRows& rows) {
  const int64_t floats = 3 * tiles_of(rows.size);
  const bool is_on_chip = parts_of(rows) == 1 && floats * static_cast<int64_t>(sizeof(float)) <= kSharedBytes;
  return is_on_chip ? 0 : rows.count * floats;
}

void sample_rows(const LogitRows& rows, const SamplingBatch& batch, float* scratch, cudaStream_t stream) {
  with_type(rows.type, [&](auto zero) {
    scan_in_parts(rows, scratch, stream, [&](const Parts& parts, const Launch& shape) {
      launch(sample_row<decltype(zero)>, shape, rows, batch, scratch, parts);
    });
  });
}

}  // namespace electra_kernels
