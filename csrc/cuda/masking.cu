// Chooses the masked tokens of a row without replacement. Of n maskable tokens, slot j removes the
// floor(u (n - j))-th of the tokens that the earlier slots have left.
//
// One launch does the work of a copy, a cumulative sum per slot, two gathers and a scatter. The ids are read
// once and written once; the remaining tokens are one bit each, in shared memory unless the row is too long.
// Rows are independent, so each has a block of its own. Each slot depends on the earlier ones, so a single
// warp removes the tokens, in a few instructions per slot: a lane owns a run of the bits and knows how many
// are set before it. All threads share the rest of the work.

#include "device.h"

namespace electra_kernels {
namespace {

constexpr int kThreads = 128;

// Index of the set bit that has `rank` set bits below it.
__device__ int set_bit(uint32_t bits, int rank) {
  int index = 0;
  for (int width = 16; width > 0; width /= 2) {
    const int below = __popc(bits & ((1u << width) - 1));
    if (rank < below) continue;
    rank -= below;
    bits >>= width;
    index += width;
  }
  return index;
}

// The tokens of a row that are not removed yet, as bits. One warp owns them.
class Remaining {
 public:
  __device__ Remaining(uint32_t* words, int count) : words_(words) {
    const int run = (count + kWarp - 1) / kWarp;
    begin_ = min(lane() * run, count);
    const int end = min(begin_ + run, count);
    int own = 0;
    for (int w = begin_; w < end; ++w) own += __popc(words[w]);
    before_ = own;
    for (int step = 1; step < kWarp; step *= 2) {
      const int lower = __shfl_up_sync(kAllLanes, before_, step);
      if (EK_BOUND(masking_scan, lane() >= step)) before_ += lower;
    }
    total_ = __shfl_sync(kAllLanes, before_, kWarp - 1);
    before_ -= own;
  }

  __device__ int total() const { return total_; }

  // Removes the token that has `rank` remaining tokens before it. Returns its position in every lane.
  __device__ int remove(int rank) {
    // The owner is the last lane with at most `rank` tokens before its own: a lane without tokens has as many
    // before it as the next lane.
    const int owner = kWarp - 1 - __clz(__ballot_sync(kAllLanes, before_ <= rank));
    int position = 0;
    if (lane() == owner) {
      rank -= before_;
      int w = begin_;
      for (int here; rank >= (here = __popc(words_[w])); ++w) rank -= here;
      const int bit = set_bit(words_[w], rank);
      if (!EK_MUTANT(masking_taken_once)) words_[w] ^= 1u << bit;
      position = w * 32 + bit;
    }
    if (EK_BOUND(masking_behind_the_owner, lane() > owner)) --before_;
    return __shfl_sync(kAllLanes, position, owner);
  }

 private:
  uint32_t* words_;
  int begin_;   // first word of the lane
  int before_;  // tokens that remain in the words before it
  int total_;   // tokens before the first was removed
};

// The id that replaces `original`: [MASK], a random id or `original` itself.
__device__ int64_t masked_id(const MaskingOptions& options, double action, int64_t original) {
  if (action < options.mask_fraction) return options.mask_token_id;
  if (options.random_fraction <= 0) return original;
  const double remainder = (action - (1 - options.random_fraction)) / options.random_fraction;
  if (!(remainder >= 0)) return original;
  const int64_t id = static_cast<int64_t>(remainder * static_cast<double>(options.vocab_size));
  return min(id, options.vocab_size - 1);
}

// Copies the ids of a row and sets the bits of its maskable tokens.
__device__ void copy_ids(const MaskingBatch& batch, int64_t row, uint32_t* words) {
  const int64_t* const ids = batch.input_ids + row * batch.input_row_stride;
  const uint8_t* const flags = batch.maskable + row * batch.maskable_row_stride;
  int64_t* const masked_ids = batch.masked_ids + row * batch.length;
  for (int start = 0; start < batch.length; start += kThreads) {
    const int i = start + static_cast<int>(threadIdx.x);
    const bool is_inside = EK_BOUND(masking_end_of_row, i < batch.length);
    const bool is_maskable = is_inside && flags[i * batch.maskable_stride] != 0;
    const uint32_t word = __ballot_sync(kAllLanes, is_maskable);
    if (lane() == 0 && EK_BOUND(masking_end_of_words, i < batch.length)) words[i / 32] = word;
    if (!is_inside) continue;
    masked_ids[i] = ids[i * batch.input_stride];
  }
}

// Called by one warp. Writes the positions of the slots that are used and returns how many are.
__device__ int choose_positions(const MaskingBatch& batch, double probability, const double* uniforms,
                                uint32_t* words, int64_t* positions) {
  Remaining tokens(words, static_cast<int>(masking_words(batch.length)));
  const int available = tokens.total();
  int used = static_cast<int>(probability * available + 0.5);
  used = min(min(max(used, 1), available), batch.slots);
  for (int first = 0; first < used; first += kWarp) {
    // A slot's rank does not depend on the tokens that others remove, so a warp computes 32 ranks at once.
    const int slot = first + lane();
    const int remaining = available - slot;
    int rank = 0;
    if (EK_BOUND(masking_used_slots, slot < used)) {
      rank = static_cast<int>(uniforms[2 * slot] * remaining);
      rank = max(0, min(rank, remaining - 1));
    }
    int position = 0;
    for (int k = 0; k < min(kWarp, used - first); ++k) {
      const int removed = tokens.remove(__shfl_sync(kAllLanes, rank, k));
      if (k == lane()) position = removed;
    }
    if (slot < used) positions[slot] = position;
  }
  return used;
}

__global__ void __launch_bounds__(kThreads) mask_row(const MaskingBatch batch, const MaskingOptions options) {
  EK_DYNAMIC_SHARED(shared_words, uint32_t);
  EK_SHARED(shared_used, int);
  const int64_t row = blockIdx.x;
  uint32_t* const words =
      batch.words == nullptr ? shared_words : batch.words + row * masking_words(batch.length);
  const double* const uniforms = batch.uniforms + row * batch.slots * 2;
  int64_t* const positions = batch.positions + row * batch.slots;

  copy_ids(batch, row, words);
  EK_BARRIER(masking_words_complete);
  if (warp() == 0) {
    const int used = choose_positions(batch, options.probability, uniforms, words, positions);
    if (lane() == 0) shared_used = used;
  }
  EK_BARRIER(masking_positions_complete);

  const int used = shared_used;
  for (int slot = threadIdx.x; slot < batch.slots; slot += kThreads) {
    const double action = uniforms[2 * slot + 1];
    int64_t target = -100;
    if (slot < used) {
      const int64_t position = positions[slot];
      target = batch.input_ids[row * batch.input_row_stride + position * batch.input_stride];
      batch.masked_ids[row * batch.length + position] = masked_id(options, action, target);
    } else {
      positions[slot] = 0;
    }
    batch.targets[row * batch.slots + slot] = target;
  }
}

}  // namespace

void mask_rows(const MaskingBatch& batch, const MaskingOptions& options, cudaStream_t stream) {
  const int64_t words = batch.words == nullptr ? masking_words(batch.length) : 0;
  launch(mask_row, {batch.batch, kThreads, stream, words * static_cast<int64_t>(sizeof(uint32_t))}, batch,
         options);
}

}  // namespace electra_kernels
