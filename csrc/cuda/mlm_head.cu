// Masked-LM loss, sample and gradient of rows of logits:
//
//     loss = l - x[target] + z l^2        d/dx = softmax(x) (1 + 2 z l) - one_hot(target)
//
// with l = logsumexp(x).
//
// If the gradient may overwrite the logits, one block copies a row to shared memory, all tiles at once and in
// the background, and writes its gradient from there: two passes over memory, where eager soft-max, loss,
// sample and gradient make eight. That is legal because everything that is read from global memory (the row
// and its target's logit) has been read before the barrier in front of the first write. The draw reads its
// tile in shared memory, by one warp, while the other warps write.
//
// On GPUs with clusters, a cluster holds a row that is too long for a third of a multiprocessor's shared
// memory, and rows that are too few to fill the GPU with one block each. Each block has a slice of the tiles
// and the sums of all of them, so nothing else passes between the blocks. Without clusters such a row is
// scanned as if the logits were kept, and the gradient kernel reads it again.

#include "gradient.h"
#include "ring.h"

namespace electra_kernels {
namespace {

// Target number of resident blocks per multiprocessor when rows are held in shared memory, and the least: a
// block that is alone leaves the memory idle while it draws and sums.
constexpr int kHoldBlocks = 3;
constexpr int kLeastHoldBlocks = 2;
// Tiles that a warp copies at once, which are all that it has of a row unless a block holds more than 64.
constexpr int kHeldAhead = 8;
constexpr int kThreads = 256;

struct Target {
  int column;  // -1: the row has no such column
  float logit;
};

__device__ int column_of_target(int size, int64_t target) {
  return target >= 0 && target < size ? static_cast<int>(target) : -1;
}

template <typename T>
__device__ Target target_of(const Row<T>& row, int64_t target) {
  return {column_of_target(row.size, target), logit_at(row, target)};
}

// The loss without z_loss.
__device__ float cross_entropy_of(const RowSums& sums, const Target& target) {
  return sums.is_bad ? kNaN : (sums.maximum - target.logit) + sums.log_sum;
}

__device__ void write_statistics(const CrossEntropyBatch& batch, int64_t index, float cross_entropy,
                                 bool is_top1, const LogSumExp& parts) {
  if (lane() != 0) return;
  const float logsumexp = parts.maximum + parts.log_sum;
  // z_loss times the square could be 0 times infinity.
  batch.losses[index] = cross_entropy + batch.z_loss * logsumexp * logsumexp;
  batch.is_top1[index] = is_top1;
  batch.logsumexp[index] = logsumexp;
  batch.logsumexp_parts[index] = parts;
}

__device__ void write_ignored(const CrossEntropyBatch& batch, int64_t index) {
  write_statistics(batch, index, 0, false, {0, 0});
  if (lane() == 0) batch.tokens[index] = -1;
}

// Called by one warp.
__device__ void add_up(const LossSum& sum, const float* losses, int64_t count) {
  // Volatile, because other blocks may have written them.
  const volatile float* const written = losses;
  constexpr int kAtOnce = 8;
  double total = 0;
  for (int64_t begin = lane(); begin < count; begin += kAtOnce * kWarp) {
    float batch[kAtOnce];
    EK_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t row = begin + i * kWarp;
      batch[i] = EK_BOUND(inplace_rows_summed, row < count) ? written[row] : 0;
    }
    EK_UNROLL
    for (int i = 0; i < kAtOnce; ++i) total += batch[i];
  }
  total = reduce_warp(total, Sum());
  if (lane() == 0) *sum.loss = static_cast<float>(total * reciprocal_or_zero(*sum.denominator));
}

// Called by the warp that has written a row's statistics. The warp of the last row adds up the losses of all;
// a launch of its own would take longer than the sum.
__device__ void sum_if_last(const LossSum& sum, const float* losses, int64_t count) {
  if (sum.finished == nullptr) return;
  unsigned before = 0;
  if (lane() == 0) {
    __threadfence();
    before = atomicAdd(sum.finished, 1u);
    __threadfence();
  }
  if (__shfl_sync(kAllLanes, before, 0) != count - 1) return;
  __syncwarp();
  __threadfence();
  add_up(sum, losses, count);
}

// Tiles [begin, end) of a row, which a block has.
struct Slice {
  int begin, end;

  // Exactly one block of a row owns the chosen tile. If nothing can be drawn, it is the block with tile 0.
  __device__ bool owns(const Choice& choice) const {
    const int tile = max(choice.tile, 0);
    return begin <= tile && tile < end;
  }
};

// Called by one warp per block: if the block has the chosen tile, draws from the row and writes its
// statistics. Returns whether it does.
template <typename T>
__device__ bool finish_row(const Row<T>& row, int shift, const Slice& slice, const CrossEntropyBatch& batch,
                           int64_t index, const Draw& draw, const Tiles& tiles, const RowSums& sums,
                           const Target& target, T* memory) {
  const Choice choice = choose(tiles, sums, draw);
  if (!slice.owns(choice)) return false;
  const LogSumExp logsumexp = sums.is_bad ? LogSumExp{0, kNaN} : sums.logsumexp();
  // The maximum ignores NaN, so a row with a NaN is recognised by its log_sum.
  const bool is_top1 = target.logit == sums.maximum && sums.log_sum == sums.log_sum;
  // Before the draw, which needs the registers.
  write_statistics(batch, index, cross_entropy_of(sums, target), is_top1, logsumexp);
  const int token = draw_token(row, shift, draw, tiles, choice, memory);
  if (lane() == 0) batch.tokens[index] = token;
  return true;
}

// The loss as scan_rows asks for it; the label of a row is its target.
template <typename T>
struct LossOfRow {
  const CrossEntropyBatch& batch;

  __device__ int64_t label(int64_t index) const { return batch.targets[index]; }
  __device__ bool skips(int64_t target) const { return target == batch.ignore_index; }
  __device__ float inverse_temperature() const { return batch.inverse_temperature; }
  __device__ int banned(const LogitRows& rows, int64_t target) const {
    return batch.ban_original ? column_of_target(rows.size, target) : -1;
  }
  __device__ void finish(const LogitRows& rows, int64_t index, const Tiles& tiles, T* memory) const {
    const int64_t label = batch.targets[index];
    if (skips(label)) {
      write_ignored(batch, index);
      return sum_if_last(batch.sum, batch.losses, rows.count);
    }
    const Row<T> row = row_at<T>(rows, index);
    const Target target = target_of(row, label);
    const Draw draw = {batch.uniforms[index], banned(rows, label), batch.inverse_temperature};
    const RowSums sums = sum_tiles(tiles, draw.banned < 0 ? -kInfinity : target.logit);
    finish_row(row, row.shift(), {0, tiles.count}, batch, index, draw, tiles, sums, target, memory);
    sum_if_last(batch.sum, batch.losses, rows.count);
  }
};

// Loss, statistics and draw; the logits are kept.
template <typename T>
__global__ void __launch_bounds__(kScanWarps* kWarp, kScanBlocks)
    cross_entropy_row(const __grid_constant__ LogitRows rows, const __grid_constant__ CrossEntropyBatch batch,
                      float* const scratch, const __grid_constant__ Parts parts) {
  scan_rows<T>(rows, LossOfRow<T>{batch}, scratch, parts);
}

template <typename T>
__device__ void write_zeros(const Row<T>& row, int shift, int tile) {
  const Columns columns = interleaved<T>(tile * kTile - shift);
  const Share<T> zeros = {};
  store_tile(row, columns, zeros);
}

// Writes a tile's sums to the shared memory of every block of the row.
__device__ void share_sums(const Tiles& tiles, int tile, const TileSums& sums, int cluster) {
  if (cluster == 1) {
    if (lane() == 0) write_sums(tiles, tile, sums);
  } else if (lane() < cluster) {
    const Tiles there = {shared_of(tiles.maximum, lane()), shared_of(tiles.total, lane()),
                         shared_of(tiles.drawable, lane()), tiles.count};
    write_sums(there, tile, sums);
  }
}

// Tiles that a block holds, at the beginning of its dynamic shared memory. The sums of all tiles follow.
constexpr int held_tiles(int size, int cluster) { return (tiles_of(size) + cluster - 1) / cluster; }

// Loss, statistics and draw; the gradient overwrites the logits.
template <typename T>
__global__ void __launch_bounds__(kScanWarps* kWarp, kHoldBlocks)
    cross_entropy_row_(const LogitRows rows, const CrossEntropyBatch batch, const int cluster) {
  EK_DYNAMIC_SHARED(memory, T);
  const int64_t index = blockIdx.x / cluster;
  const int rank = static_cast<int>(blockIdx.x % cluster), warps = static_cast<int>(blockDim.x) / kWarp;
  const Row<T> row = row_at<T>(rows, index);
  const int shift = row.shift(), held = held_tiles(row.size, cluster);
  const Slice slice = {rank * held, min((rank + 1) * held, tiles_of(row.size))};
  if (batch.targets[index] == batch.ignore_index) {
    for (int tile = slice.begin + warp(); tile < slice.end; tile += warps) write_zeros(row, shift, tile);
    EK_WAIT_FOR_FIRST(rows_ignored_wait);
    if (rank == 0 && warp() == 0) {
      write_ignored(batch, index);
      sum_if_last(batch.sum, batch.losses, rows.count);
    }
    return;
  }
  const Row<T> copy = {memory + shift - slice.begin * kTile, 1, row.size};
  const Tiles tiles =
      tiles_at(reinterpret_cast<float*>(memory + held * kTile), row.size, batch.inverse_temperature);
  Target target = target_of(row, batch.targets[index]);
  const Draw draw = {batch.uniforms[index], batch.ban_original ? target.column : -1,
                     batch.inverse_temperature};
  const auto start_copy = [&](int tile) {
    const int first = tile * kTile - shift;
    if (tile < slice.end) copy_tile_later(row, first, interleaved<T>(first), copy);
    end_group_of_copies();
  };
  EK_ROLLED
  for (int i = 0; i < kHeldAhead; ++i) start_copy(slice.begin + warp() + i * warps);
  if (cluster > 1) EK_CLUSTER_BARRIER(rows_cluster_begun);
  for (int tile = slice.begin + warp(); tile < slice.end; tile += warps) {
    wait_for_oldest_copy<kHeldAhead>();
    share_sums(tiles, tile, scan_tile(copy, tile * kTile - shift, draw), cluster);
    start_copy(tile + kHeldAhead * warps);
  }
  if (cluster > 1) EK_CLUSTER_BARRIER(rows_cluster_copied);
  if (cluster == 1) EK_BARRIER(rows_copied);
  EK_WAIT_FOR_FIRST(inplace_wait);
  if (EK_MUTANT(rows_target_read_late)) target = target_of(row, batch.targets[index]);

  const RowSums sums = sum_tiles(tiles, draw.banned < 0 ? -kInfinity : target.logit);
  // The last warp has the fewest tiles.
  if (warp() == warps - 1) {
    const bool has_finished =
        finish_row<T>(copy, shift, slice, batch, index, draw, tiles, sums, target, nullptr);
    if (has_finished) sum_if_last(batch.sum, batch.losses, rows.count);
  }
  const LogSumExp logsumexp = sums.is_bad ? LogSumExp{0, kNaN} : sums.logsumexp();
  const Factors factors = factors_of(batch.scale == nullptr ? 1 : *batch.scale, batch.z_loss, logsumexp);
  for (int tile = slice.begin + warp(); tile < slice.end; tile += warps) {
    const int first = tile * kTile - shift;
    const Columns columns = interleaved<T>(first);
    Share<T> x;
    load_copied_tile(copy, columns, x);
    soft_max_less_target<T>(first, columns, logsumexp, target.column, -cross_entropy_of(sums, target),
                            factors, x);
    store_tile(row, columns, x);
  }
}

// The denominator, and what else rows read before they add up their losses; with `adds_up`, the losses are
// there already and this adds them up. Launched as one block.
__global__ void __launch_bounds__(kThreads)
    prepare(const __grid_constant__ CrossEntropyBatch batch, const int64_t count, const bool adds_up) {
  if (!adds_up) let_second_begin();
  constexpr int kWarps = kThreads / kWarp;
  EK_SHARED(counts, double[kWarps]);
  double counted = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) counted += batch.targets[i] != batch.ignore_index;
  counted = reduce_warp(counted, Sum());
  if (lane() == 0) counts[warp()] = counted;
  EK_BARRIER(rows_reduced_by_warp);
  if (warp() != 0) return;
  const LossSum& sum = batch.sum;
  if (lane() == 0) {
    for (int i = 1; i < kWarps; ++i) counted += counts[i];
    double divisor = 1;
    if (sum.is_mean) divisor = sum.normalizer == nullptr ? counted : *sum.normalizer;
    *sum.denominator = divisor;
    *sum.reciprocal = static_cast<float>(reciprocal_or_zero(divisor));
    *sum.one = 1;
    *sum.loss = 0;  // of no rows
    if (!EK_MUTANT(rows_none_finished)) *sum.finished = 0;
  }
  if (adds_up) add_up(sum, batch.losses, count);
}

// ---- launches ---------------------------------------------------------------------------------------------

template <typename T>
int64_t held_bytes(int size, int cluster) {
  return held_tiles(size, cluster) * int64_t{kTile} * sizeof(T) + sums_bytes(size);
}

// Shared memory of each of `blocks` blocks that run on a multiprocessor at once.
int64_t shared_of_each(const Device& device, int blocks) {
  return (device.shared_bytes - (blocks - 1) * kSystemBytes) / blocks;
}

// Blocks that hold a row together; 0 if the row is to be read twice.
template <typename T>
int blocks_to_hold(const LogitRows& rows) {
  const Device device = current_device();
  const int most =
      is_of_generation_90(reinterpret_cast<const void*>(cross_entropy_row_<T>)) ? device.cluster : 1;
  const int64_t wanted_bytes = shared_of_each(device, kHoldBlocks);
  const int64_t wanted_blocks = 2 * device.multiprocessors;
  int cluster = 1;
  while (cluster < most && cluster * kScanWarps < tiles_of(rows.size) &&
         (held_bytes<T>(rows.size, cluster) > wanted_bytes || rows.count * cluster < wanted_blocks)) {
    cluster *= 2;
  }
  const bool fills = cluster > 1 || parts_of(rows) == 1;
  const bool fits = held_bytes<T>(rows.size, cluster) <= shared_of_each(device, kLeastHoldBlocks);
  return fills && fits ? cluster : 0;
}

}  // namespace

void cross_entropy_rows(const LogitRows& rows, const CrossEntropyBatch& batch, float* scratch,
                        cudaStream_t stream) {
  const bool sums = batch.sum.finished != nullptr;
  if (sums) {
    // Nothing may be launched between these two, because the rows may begin before `prepare` has ended.
    const Overlap overlap = rows.count > 0 ? Overlap::kFirst : Overlap::kNone;
    launch(prepare, {1, kThreads, stream, 0, 1, overlap}, batch, rows.count, false);
  }
  if (rows.count == 0) return;
  const Overlap overlap = sums ? Overlap::kSecond : Overlap::kNone;
  with_type(rows.type, [&](auto zero) {
    using T = decltype(zero);
    const int cluster = batch.overwrites ? blocks_to_hold<T>(rows) : 0;
    if (cluster > 0) {
      const int threads = min(held_tiles(rows.size, cluster), kScanWarps) * kWarp;
      launch(cross_entropy_row_<T>,
             {rows.count * cluster, threads, stream, held_bytes<T>(rows.size, cluster), cluster, overlap},
             rows, batch, cluster);
      return;
    }
    scan_in_parts<T>(rows, scratch, stream, overlap, [&](const Parts& parts, const Launch& shape) {
      launch(cross_entropy_row<T>, shape, rows, batch, scratch, parts);
    });
    if (!batch.overwrites) return;
    gradient_rows(rows,
                  {batch.logsumexp_parts, batch.targets, batch.ignore_index, batch.scale, false, nullptr,
                   batch.z_loss, nullptr},
                  rows, stream);
  });
}

void sum_losses(const CrossEntropyBatch& batch, int64_t count, cudaStream_t stream) {
  launch(prepare, {1, kThreads, stream}, batch, count, true);
}

}  // namespace electra_kernels
