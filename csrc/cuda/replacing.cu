// Replaces tokens at their positions and labels the tokens that changed.
//
// One block has one row. The ids are read once; ids and labels are written once, where a copy, a scatter and
// a comparison would read and write each of them again. Positions of a row are distinct, so the slots are
// independent after the copy.

#include "device.h"

namespace electra_kernels {
namespace {

constexpr int kThreads = 128;

// A negative token keeps the original.
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

void replace_rows(const ReplacementBatch& batch, cudaStream_t stream) {
  launch(replace_row, {batch.batch, kThreads, stream}, batch);
}

}  // namespace electra_kernels
