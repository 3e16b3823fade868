// Chooses the masked tokens of a row without replacement. Of n maskable tokens, slot j removes the
// floor(u (n - j))-th of the tokens that the earlier slots have left.
//
// Removing tokens one by one is a chain of dependent steps over the slots. Undoing the removals is not: a
// token of rank q after slot i's removal had rank q before it, or q + 1 if q is at least the rank that slot i
// removed. So each slot maps its rank back through the earlier slots, from the latest to the first, and all
// slots do so at once, one per lane.
//
// The ids are read once and written once. Products and sums of float64 are rounded one by one, as in the
// reference: see KERNEL_FLAGS in csrc/build.py.

#include "kernels.h"
#include "vector.h"

namespace electra_kernels {
namespace {

using Ranks = int32_t __attribute__((vector_size(4 * kLanes)));

// Writes the positions of the maskable tokens, in order, into table [length + 1]. Returns how many there are.
inline int64_t list_maskable(const MaskingRow& row, int32_t* table) {
  int64_t count = 0;
  for (int64_t i = 0; i < row.length; ++i) {
    table[count] = static_cast<int32_t>(i);
    count += row.maskable[i * row.maskable_stride] != 0;
  }
  return count;
}

// left [used]: the rank that each slot removes among the tokens left at its turn. ranks [used]: its rank
// among all maskable tokens.
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
    const Ranks removed = left[earlier] - Ranks{};
    // Vectors begin at fixed slots: a load that overlaps two earlier stores would have to wait for them.
    for (int64_t start = (earlier + 1) / kLanes * kLanes; start < used; start += kLanes) {
      Ranks rank = load_as<Ranks>(ranks + start);
      const int32_t first = static_cast<int32_t>(earlier - start);
      rank -= (rank >= removed) & (lane > first);
      __builtin_memcpy(ranks + start, &rank, sizeof(rank));
    }
  }
}

// The id that replaces `original`: [MASK], a random id or `original` itself. It has no branches, because they
// would be mispredicted.
inline int64_t masked_id(const MaskingOptions& options, double action, int64_t original) {
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

// Returns false if an id is not in the vocabulary.
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
    const int64_t original = row.masked_ids[position];  // still unmasked: no other slot has this position
    row.positions[slot] = position;
    row.targets[slot] = original;
    row.masked_ids[position] = masked_id(options, row.uniforms[2 * slot + 1], original);
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
