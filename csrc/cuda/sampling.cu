// One draw per row at the price of its log-sum-exp, the gradient of that; replacing tokens, and the labels of
// what changed.
//
// A row of logits is read once, by one block (by several where there are too few rows), and one tile of it a
// second time, where drawing by Gumbel noise reads a tensor of noise as well and writes one. Tiles may be
// visited in any order, as their sums are relative to their own maxima.
//
// Replacing: one block has one row, the ids are read once, ids and labels written once, where a copy, a
// scatter and a comparison would read and write each of them again.

#include "rows.h"

namespace electra_kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kSampleThreads = kVisitWarps * kWarp;

template <typename T>
__global__ void __launch_bounds__(kSampleThreads, 3)
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

  if (parts.visits && !is_skipped) visit_part(row, shift, draw, tiles, parts.count);
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
  batch.logsumexp[index] = logsumexp.maximum + logsumexp.log_total;
}

// A block has up to a tile per warp.
template <typename T>
__global__ void __launch_bounds__(kSampleThreads, 3)
    gradient_row(const LogitRows rows, const GradientBatch batch, const LogitRows gradients,
                 const int blocks) {
  const int64_t index = blockIdx.x / blocks;
  const int tile = static_cast<int>(blockIdx.x % blocks * (blockDim.x / kWarp)) + warp();
  const Row<T> row = row_at<T>(rows, index), out = row_at<T>(gradients, index);
  const int first = tile * kTile - out.shift();
  if (tile >= tiles_of(row.size)) return;
  const int64_t target = batch.targets == nullptr ? -1 : batch.targets[index];
  const Places places = interleaved<T>(first);
  Share<T> x;
  if (batch.targets != nullptr && target == batch.ignore_index) {
    for (int v = 0; v < kVectors<T>; ++v) {
      for (int i = 0; i < kPerVector<T>; ++i) x[v][i] = 0;
    }
  } else {
    const double upstream = batch.upstream == nullptr ? 1 : batch.upstream[batch.is_per_row ? index : 0];
    const double divisor = batch.denominator == nullptr ? 1 : *batch.denominator;
    const float scale = static_cast<float>(upstream * reciprocal_or_zero(divisor));
    load_tile(row, first, places, x);
    const LogSumExp logsumexp = batch.logsumexp[index];
    const int column = target < row.size ? static_cast<int>(target) : -1;
    const float distance = (column_of<T>(places, column, x) - logsumexp.maximum) - logsumexp.log_total;
    soft_max_less_target<T>(first, places, logsumexp, column, distance, scale, x);
  }
  store_tile(out, places, x);
}

// Negative tokens keep the original.
__global__ void __launch_bounds__(kThreads) replace_row(const ReplacementBatch batch) {
  const int64_t row = blockIdx.x;
  const int64_t* const originals = batch.input_ids + row * batch.row_stride;
  const int64_t* const positions = batch.positions + row * batch.slots;
  const int64_t* const tokens = batch.tokens + row * batch.slots;
  int64_t* const ids = batch.ids + row * batch.length;
  bool* const is_replaced = batch.is_replaced + row * batch.length;

  for (int64_t i = threadIdx.x; i < batch.length; i += kThreads) {
    ids[i] = originals[i * batch.stride];
    is_replaced[i] = false;
  }
  EK_BARRIER(replacing_copied);
  for (int64_t slot = threadIdx.x; slot < batch.slots; slot += kThreads) {
    const int64_t token = tokens[slot], position = positions[slot];
    if (!EK_BOUND(replacing_no_draw, token >= 0)) continue;
    const bool is_inside = static_cast<uint64_t>(position) < static_cast<uint64_t>(batch.length);
    if (!is_inside) continue;
    is_replaced[position] = token != originals[position * batch.stride];
    ids[position] = token;
  }
}

}  // namespace

int64_t visit_scratch(const LogitRows& rows) {
  const int64_t floats = 3 * tiles_of(rows.size);
  const bool is_on_chip = parts_of(rows) == 1 && floats * static_cast<int64_t>(sizeof(float)) <= kSharedBytes;
  return is_on_chip ? 0 : rows.count * floats;
}

void sample_rows(const LogitRows& rows, const SamplingBatch& batch, float* scratch, cudaStream_t stream) {
  with_type(rows.type, [&](auto zero) {
    visit_in_parts(rows, scratch, stream, [&](const Parts& parts, const Launch& shape) {
      launch(sample_row<decltype(zero)>, shape, rows, batch, scratch, parts);
    });
  });
}

void gradient_rows(const LogitRows& rows, const GradientBatch& batch, const LogitRows& gradient,
                   cudaStream_t stream) {
  const int warps = warps_of(rows), blocks = (tiles_of(rows.size) + warps - 1) / warps;
  with_type(rows.type, [&](auto zero) {
    launch(gradient_row<decltype(zero)>, {rows.count * blocks, warps * kWarp, stream}, rows, batch, gradient,
           blocks);
  });
}

void replace_rows(const ReplacementBatch& batch, cudaStream_t stream) {
  launch(replace_row, {batch.batch, kThreads, stream}, batch);
}

}  // namespace electra_kernels
