// Which tokens of a row are masked. Slot j takes the floor(u (n - j))-th of those of n maskable tokens that
// are left: found and removed in a bit per token, with a Fenwick tree of counts over words of 64 bits.
//
// Nothing here is vectorised; it is compiled per level for the flags that keep a level's results apart from
// the compiler's choices: the reference has every product and sum rounded.

#include "kernels.h"

namespace electra_kernels {
namespace {

// Place of the set bit before which `rank` are set: the byte from prefix sums over the bytes of the word, the
// bit by taking away the lower ones.
inline int64_t select(uint64_t bits, uint64_t rank) {
  constexpr uint64_t kEach = 0x0101010101010101u;
  uint64_t sums = bits - (bits >> 1 & 0x5555555555555555u);
  sums = (sums & 0x3333333333333333u) + (sums >> 2 & 0x3333333333333333u);
  sums = ((sums + (sums >> 4)) & 0x0f0f0f0f0f0f0f0fu) * kEach;
  const uint64_t is_before = (((rank * kEach) | 0x80 * kEach) - sums) >> 7 & kEach;
  const uint64_t shift = 8 * ((is_before * kEach) >> 56);
  rank -= (sums << 8) >> shift & 0xff;
  bits >>= shift;
  for (; rank > 0; --rank) bits &= bits - 1;
  return static_cast<int64_t>(shift) + __builtin_ctzll(bits);
}

// Tokens that are left.
class Left {
 public:
  Left(const MaskingRow& row, uint64_t* scratch)
      : words_((row.length + 63) / 64), bits_(scratch), tree_(scratch + words_) {
    for (int64_t w = 0; w < words_; ++w) bits_[w] = word(row, w * 64);
    for (int64_t i = 0; i <= words_; ++i) tree_[i] = 0;
    for (int64_t i = 1; i <= words_; ++i) {
      tree_[i] += __builtin_popcountll(bits_[i - 1]);
      total_ += __builtin_popcountll(bits_[i - 1]);
      const int64_t above = i + (i & -i);
      if (above <= words_) tree_[above] += tree_[i];
    }
    while (2 * step_ <= words_) step_ *= 2;
  }

  int64_t total() const { return total_; }

  // Takes out the token before which `rank` are left.
  int64_t take(uint64_t rank) {
    int64_t w = 0;
    for (int64_t step = step_; step > 0; step /= 2) {
      if (w + step <= words_ && tree_[w + step] <= rank) {
        w += step;
        rank -= tree_[w];
      }
    }
    const int64_t bit = select(bits_[w], rank);
    bits_[w] ^= uint64_t{1} << bit;
    for (int64_t i = w + 1; i <= words_; i += i & -i) --tree_[i];
    return w * 64 + bit;
  }

 private:
  static uint64_t word(const MaskingRow& row, int64_t start) {
    const uint8_t* const flags = row.maskable + start * row.maskable_stride;
    const int64_t count = start + 64 < row.length ? 64 : row.length - start;
    uint64_t bits = 0;
    for (int64_t i = 0; i < count; ++i) {
      bits |= static_cast<uint64_t>(flags[i * row.maskable_stride] != 0) << i;
    }
    return bits;
  }

  int64_t words_;
  uint64_t* bits_;
  uint64_t* tree_;  // from 1: tree[i] counts the i & -i words up to i
  int64_t total_ = 0;
  int64_t step_ = 1;
};

// The id that is written where `original` stood.
inline int64_t written(const MaskingOptions& options, double action, int64_t original) {
  if (action < options.mask_fraction) return options.mask_token_id;
  if (options.random_fraction <= 0) return original;
  const double remainder = (action - (1 - options.random_fraction)) / options.random_fraction;
  if (remainder < 0) return original;
  const int64_t id = static_cast<int64_t>(remainder * static_cast<double>(options.vocab_size));
  return id < options.vocab_size ? id : options.vocab_size - 1;
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

bool mask_row(const MaskingRow& row, const MaskingOptions& options, uint64_t* scratch) {
  if (!copy_ids(row, options.vocab_size)) return false;
  Left left(row, scratch);
  const int64_t available = left.total();
  int64_t used = static_cast<int64_t>(options.probability * static_cast<double>(available) + 0.5);
  used = used < 1 ? 1 : used;
  used = used < available ? used : available;
  used = used < row.slots ? used : row.slots;
  for (int64_t slot = 0; slot < used; ++slot) {
    const int64_t remaining = available - slot;
    const int64_t rank = static_cast<int64_t>(row.uniforms[2 * slot] * static_cast<double>(remaining));
    const int64_t position = left.take(rank < remaining ? rank : remaining - 1);
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
