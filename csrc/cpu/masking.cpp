// Which tokens of a row are masked. Slot j takes the floor(u (n - j))-th of those of n maskable tokens that
// are left. Taking them out one by one is a chain over the slots; putting them back is none: among what slot
// i found, a token that is q-th after its turn was q-th, or (q + 1)-th from its rank on. So every slot walks
// back through the earlier ones, from the latest to the first, all slots at once, a lane each.
//
// Products and sums of float64 are rounded one by one, as in the reference: see the flags in setup.py.

#include "kernels.h"
#include "vector.h"

namespace electra_kernels {
namespace {

using Ranks = int32_t __attribute__((vector_size(4 * kLanes)));

// Positions of the maskable tokens, in order, into `table`, one longer than the row; returns how many there
// are.
inline int64_t list_maskable(const MaskingRow& row, int32_t* table) {
  int64_t count = 0;
  for (int64_t i = 0; i < row.length; ++i) {
    table[count] = static_cast<int32_t>(i);
    count += row.maskable[i * row.maskable_stride] != 0;
  }
  return count;
}

// Ranks among the tokens that are left at each slot's turn, then among all that are maskable.
inline void find_ranks(const MaskingRow& row, int64_t available, int64_t used, int32_t* left,
                       int32_t* ranks) {
  for (int64_t slot = 0; slot < used; ++slot) {
    const int64_t remaining = available - slot;
    const int64_t rank = static_cast<int64_t>(row.uniforms[2 * slot] * static_cast<double>(remaining));
    left[slot] = ranks[slot] = static_cast<int32_t>(rank < remaining ? rank : remaining - 1);
  }
  Ranks lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for (int64_t earlier = used - 2; earlier >= 0; --earlier) {
    const Ranks taken = left[earlier] - Ranks{};
    // Always the same vectors, so that a load finds what was stored last in one piece.
    for (int64_t start = (earlier + 1) / kLanes * kLanes; start < used; start += kLanes) {
      Ranks rank = load_as<Ranks>(ranks + start);
      const int32_t first = static_cast<int32_t>(earlier - start);
      rank -= (rank >= taken) & (lane > first);
      __builtin_memcpy(ranks + start, &rank, sizeof(rank));
    }
  }
}

// The id that is written where `original` stood. Chance decides, so nothing of it is a branch.
inline int64_t written(const MaskingOptions& options, double action, int64_t original) {
  int64_t id = original;
  if (options.random_fraction > 0) {
    const double remainder = (action - (1 - options.random_fraction)) / options.random_fraction;
    const double above = remainder > 0 ? remainder : 0;
    const int64_t drawn = static_cast<int64_t>(above * static_cast<double>(options.vocab_size));
    const int64_t random_id = drawn < options.vocab_size ? drawn : options.vocab_size - 1;
    id = remainder < 0 ? original : random_id;
  }
  return action < options.mask_fraction ? options.mask_token_id : id;
}

bool copy_ids(const MaskingRow& row, int64_t vocab_size) {
  bool is_valid = true;
  for (int64_t i = 0; i < row.length; ++i) {
    const int64_t id = row.input_ids[i * row.input_stride];
    is_valid &= static_cast<uint64_t>(id) < static_cast<uint64_t>(vocab_size);
    row.masked_ids[i] = id;
  }
  return is_valid;
}

bool mask_row(const MaskingRow& row, const MaskingOptions& options, int32_t* scratch) {
  if (!copy_ids(row, options.vocab_size)) return false;
  int32_t* const left = scratch + row.length + 1;
  int32_t* const ranks = left + row.slots;
  const int64_t available = list_maskable(row, scratch);
  int64_t used = static_cast<int64_t>(options.probability * static_cast<double>(available) + 0.5);
  used = used < 1 ? 1 : used;
  used = used < available ? used : available;
  used = used < row.slots ? used : row.slots;
  find_ranks(row, available, used, left, ranks);
  for (int64_t slot = 0; slot < used; ++slot) {
    const int64_t position = scratch[ranks[slot]];
    const int64_t original = row.masked_ids[position];  // no other slot has this position
    row.positions[slot] = position;
    row.targets[slot] = original;
    row.masked_ids[position] = written(options, row.uniforms[2 * slot + 1], original);
  }
  for (int64_t slot = used; slot < row.slots; ++slot) {
    row.positions[slot] = 0;
    row.targets[slot] = -100;
  }
  return true;
}

}  // namespace

const MaskingKernels EK_LEVEL::masking = {mask_row};

}  // namespace electra_kernels
