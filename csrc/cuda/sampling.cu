// Replacing tokens, and the labels of what changed.
//
// One block has one row: the ids are read once, ids and labels written once, where a copy, a scatter and a
// comparison would read and write each of them again.

#include "device.h"

namespace electra_kernels {
namespace {

constexpr int kThreads = 128;

// Of two slots with the same position one would win by chance; who asks for checks is told.
__device__ bool is_taken_before(const int64_t* positions, const int64_t* tokens, int64_t slot) {
  for (int64_t other = 0; other < slot; ++other) {
    if (tokens[other] >= 0 && positions[other] == positions[slot]) return true;
  }
  return false;
}

// Negative tokens keep the original.
__global__ void __launch_bounds__(kThreads)
    replace_row(const ReplacementBatch batch, FirstBadRow first_bad_row) {
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
  EK_BARRIER(replacement_copied);
  for (int64_t slot = threadIdx.x; slot < batch.slots; slot += kThreads) {
    const int64_t token = tokens[slot], position = positions[slot];
    if (!EK_BOUND(replacement_no_draw, token >= 0)) continue;
    const bool is_inside = static_cast<uint64_t>(position) < static_cast<uint64_t>(batch.length);
    if (!is_inside || (first_bad_row != nullptr && is_taken_before(positions, tokens, slot))) {
      refuse(first_bad_row, row);
      continue;
    }
    is_replaced[position] = token != originals[position * batch.stride];
    ids[position] = token;
  }
}

}  // namespace

void replace_rows(const ReplacementBatch& batch, FirstBadRow first_bad_row, cudaStream_t stream) {
  launch(replace_row, {batch.batch, kThreads, stream}, batch, first_bad_row);
}

}  // namespace electra_kernels
