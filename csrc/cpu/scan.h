// The scan of one row of logits, which sampling and the masked-LM head share. The row is read once, tile by
// tile, for the maximum of each tile and its sum of exponentials. The draw inverts the CDF in two steps: it
// chooses a tile by the sums, reads that tile again, and chooses a token in it.

#pragma once

#include "row.h"

namespace electra_kernels {
namespace {

// Maxima and sums of the tiles of a row, each array [count]. They lie in scratch memory, behind the row's own
// floats.
struct Tiles {
  float* maximum;
  float* total;     // sum of exp(x - maximum)
  float* drawable;  // sum of exp((x - maximum) / temperature); at temperature 1 the same memory as total
  int64_t count;
};

inline Tiles tiles_in(float* scratch, int64_t size, bool is_tempered) {
  const int64_t count = tiles_of(size);
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  float* const maximum = scratch + count * kTile;
  float* const total = maximum + padded;
  return {maximum, total, is_tempered ? total + padded : total, count};
}

// Sets a token's logit to -inf in the tile that holds it. Returns the tile's new maximum.
inline float ban(float* tile, int64_t count, int64_t token) {
  tile[token] = -kInfinity;
  float high = -kInfinity;
  for (int64_t i = 0; i < count; ++i) high = high > tile[i] ? high : tile[i];
  return high;
}

// Sums exp((x - maximum) scale). With kKeep, the tile holds the exponentials afterwards.
template <bool kKeep>
inline float sum_exponentials(float* tile, int64_t count, float maximum, float scale) {
  // If every logit of the tile is -inf, subtracting 0 gives exponentials of 0; -inf - -inf would give NaN.
  const Floats high = broadcast(maximum == -kInfinity ? 0.0f : maximum);
  Floats total[kUnroll];
  for (Floats& part : total) part = Floats{};
  for (int64_t i = 0; i < count; i += kStep) {
    for (int k = 0; k < kUnroll; ++k) {
      const Floats e = exponential((load(tile + i + k * kLanes) - high) * scale);
      if (kKeep) store(tile + i + k * kLanes, e);
      total[k] = total[k] + e;
    }
  }
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}

// Multiplies each tile's sum by exp((maximum of the tile - maximum of the row) scale): all are relative to
// the row's maximum then.
inline void scale_sums(float* sums, const float* maxima, int64_t count, float maximum, float scale) {
  for (int64_t i = 0; i < count; i += kLanes) {
    store(sums + i, load(sums + i) * exponential((load(maxima + i) - maximum) * scale));
  }
}

// Returns the first of `count` weights whose prefix sum exceeds `point`, and never one of weight 0; -1 if all
// are 0. `point` becomes its distance from the sum of the weights before.
template <typename Weight>
inline int64_t invert_cdf(const Weight* weights, int64_t count, double& point) {
  double prefix = 0;
  double below = 0;
  int64_t chosen = -1;
  for (int64_t i = 0; i < count; ++i) {
    if (!(weights[i] > 0)) continue;
    chosen = i;
    below = prefix;
    prefix += weights[i];
    if (prefix > point) break;
  }
  point = point > below ? point - below : 0;
  return chosen;
}

// Returns the first token of the tile whose float64 prefix sum exceeds fraction x total. It chooses a group
// of tokens first, because the groups' sums are independent chains of additions.
inline int64_t draw_in_tile(const float* weights, int64_t count, double fraction) {
  constexpr int64_t kGroup = 32;
  double sums[kTile / kGroup] = {};
  const int64_t groups = (count + kGroup - 1) / kGroup;
  const int64_t whole = count / kGroup;
  for (int64_t i = 0; i < kGroup; ++i) {
    for (int64_t g = 0; g < whole; ++g) sums[g] += weights[g * kGroup + i];
  }
  for (int64_t i = whole * kGroup; i < count; ++i) sums[whole] += weights[i];
  double total = 0;
  for (int64_t g = 0; g < groups; ++g) total += sums[g];
  double point = fraction * total;
  const int64_t group = invert_cdf(sums, groups, point);
  const int64_t start = group * kGroup;
  return start + invert_cdf(weights + start, start + kGroup < count ? kGroup : count - start, point);
}

template <typename T>
inline int64_t draw_token(const Row& row, const Draw& draw, const Tiles& tiles, float scale) {
  double total = 0;
  for (int64_t t = 0; t < tiles.count; ++t) total += tiles.drawable[t];
  double point = draw.uniform * total;
  const int64_t t = invert_cdf(tiles.drawable, tiles.count, point);
  if (t < 0) return -1;
  // The rest of the uniform number is a fraction of the tile's sum, so it is valid however the two passes
  // round.
  const double fraction = point / tiles.drawable[t];
  alignas(64) float tile[kTile];
  const int64_t start = t * kTile;
  const int64_t count = start + kTile < row.size ? kTile : row.size - start;
  load_tile<T>(row, start, count, tile);
  if (draw.banned >= start && draw.banned < start + count) tile[draw.banned - start] = -kInfinity;
  sum_exponentials<true>(tile, count, tiles.maximum[t], scale);
  return start + draw_in_tile(tile, count, fraction < 1 ? fraction : 1);
}

// The maximum of a bad row: NaN if there is one, else +inf or -inf.
template <typename T>
inline float maximum_with_nan(const Row& row) {
  float high = -kInfinity;
  for (int64_t i = 0; i < row.size; ++i) {
    const float bias = row.bias == nullptr ? 0 : row.bias[i];
    const float x = to_float(static_cast<const T*>(row.logits)[i * row.stride]) + bias;
    if (x != x) return x;
    high = x > high ? x : high;
  }
  return high;
}

template <typename T, bool kKeep>
inline void scan_tiles(const Row& row, const Draw& draw, float scale, float* scratch, const Tiles& tiles,
                       float& banned_logit) {
  for (int64_t t = 0; t < tiles.count; ++t) {
    const int64_t start = t * kTile;
    const int64_t count = start + kTile < row.size ? kTile : row.size - start;
    float* const tile = kKeep ? scratch + start : scratch;
    float high = load_tile<T>(row, start, count, tile);
    const int64_t banned = draw.banned - start;
    if (draw.banned >= 0 && banned >= 0 && banned < count) {
      banned_logit = tile[banned];
      high = ban(tile, count, banned);
    }
    tiles.maximum[t] = high;
    if (tiles.drawable != tiles.total) tiles.drawable[t] = sum_exponentials<false>(tile, count, high, scale);
    tiles.total[t] = sum_exponentials<kKeep>(tile, count, high, 1);
  }
}

// A row without its banned token: its maximum, the sum of exp(x - maximum), and the banned token's logit.
struct RowSum {
  float maximum;
  double total;
  float banned_logit;
};

// Scans the tiles. Their sums are relative to the maximum of the row afterwards.
template <typename T, bool kKeep>
inline RowSum sum_row(const Row& row, const Draw& draw, float scale, float* scratch, const Tiles& tiles) {
  RowSum out = {-kInfinity, 0, -kInfinity};
  scan_tiles<T, kKeep>(row, draw, scale, scratch, tiles, out.banned_logit);
  for (int64_t t = 0; t < tiles.count; ++t) {
    out.maximum = out.maximum > tiles.maximum[t] ? out.maximum : tiles.maximum[t];
  }
  const float reference = out.maximum == -kInfinity ? 0 : out.maximum;
  if (tiles.drawable != tiles.total) {
    scale_sums(tiles.drawable, tiles.maximum, tiles.count, reference, scale);
  }
  scale_sums(tiles.total, tiles.maximum, tiles.count, reference, 1);
  for (int64_t t = 0; t < tiles.count; ++t) out.total += tiles.total[t];
  return out;
}

// Computes the statistics of the row and draws from it. With kKeep, the scratch memory holds exp(x - maximum
// of the tile) afterwards, 0 for the banned token, and the tiles' maxima.
template <typename T, bool kKeep>
inline void scan_row(const Row& row, const Draw& draw, float* scratch, RowStatistics& out) {
  const bool is_tempered = draw.temperature != 1;
  const float scale = is_tempered ? 1 / draw.temperature : 1;
  const Tiles tiles = tiles_in(scratch, row.size, is_tempered);
  const auto [high, total, banned_logit] = sum_row<T, kKeep>(row, draw, scale, scratch, tiles);

  out.maximum = high > banned_logit ? high : banned_logit;
  out.is_bad = !(total < kInfinity) || !(banned_logit < kInfinity) || out.maximum == -kInfinity;
  out.token = -1;
  out.log_sum = 0;
  if (out.is_bad) {
    out.maximum = maximum_with_nan<T>(row);
    return;
  }
  if (high == -kInfinity) return;
  out.log_sum = __builtin_log(total);
  if (banned_logit > -kInfinity) {
    // The sum without the banned token is computed first, because the draw needs it. Subtracting the banned
    // token's share from the whole sum would leave only rounding errors where that token dominates.
    const double lead = static_cast<double>(banned_logit) - high;
    out.log_sum =
        lead > 0 ? __builtin_log1p(total * __builtin_exp(-lead)) : __builtin_log(total + __builtin_exp(lead));
  }
  out.token = draw_token<T>(row, draw, tiles, scale);
}

// out [size] = exp(x - logsumexp) * scale, tile by tile.
template <typename T>
inline void soft_max(const Row& row, const LogSumExp& logsumexp, float scale, T* out, int64_t stride) {
  alignas(64) float tile[kTile];
  for (int64_t start = 0; start < row.size; start += kTile) {
    const int64_t count = start + kTile < row.size ? kTile : row.size - start;
    load_tile<T>(row, start, count, tile);
    for (int64_t i = 0; i < count; i += kLanes) {
      store(tile + i, exponential((load(tile + i) - logsumexp.maximum) - logsumexp.log_sum) * scale);
    }
    store_tile(tile, count, out + start * stride, stride);
  }
}

}  // namespace
}  // namespace electra_kernels
