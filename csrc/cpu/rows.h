// The visit to one row of logits that sampling and cross-entropy share: tile by tile its maximum and its sum
// of exponentials, then the draw: a tile by inverse CDF over the sums, and a token inside it, which is read
// again.

#pragma once

#include "kernels.h"
#include "vector.h"

namespace electra_kernels {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr int kUnroll = 4;  // independent chains of sums and maxima
constexpr int64_t kStep = kUnroll * kLanes;
static_assert(kTile % kStep == 0, "a tile is a whole number of steps");

// The tiles of a row: what the scratch memory behind the row's own floats holds.
struct Tiles {
  float* maximum;
  float* total;     // sum of exp(x - maximum)
  float* drawable;  // sum of exp((x - maximum) / temperature); the same memory as total at temperature 1
  int64_t count;
};

inline Tiles tiles_in(float* scratch, int64_t size, bool is_tempered) {
  const int64_t count = tiles(size);
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  float* const maximum = scratch + count * kTile;
  float* const total = maximum + padded;
  return {maximum, total, is_tempered ? total + padded : total, count};
}

// Elements [start, start + count) as floats, bias added, and -inf up to a whole step. Returns their maximum,
// from which a NaN may be missing: the sum of exponentials will have it.
template <typename T>
inline float load_tile(const Row& row, int64_t start, int64_t count, float* tile) {
  const T* const logits = static_cast<const T*>(row.logits) + start * row.stride;
  const float* const bias = row.bias == nullptr ? nullptr : row.bias + start;
  Floats high[kUnroll];
  for (Floats& part : high) part = broadcast(-kInfinity);
  const int64_t whole = row.stride == 1 ? count / kStep * kStep : 0;
  for (int64_t i = 0; i < whole; i += kStep) {
    for (int k = 0; k < kUnroll; ++k) {
      Floats x = load(logits + i + k * kLanes);
      if (bias != nullptr) x = x + load(bias + i + k * kLanes);
      high[k] = maximum(high[k], x);
      store(tile + i + k * kLanes, x);
    }
  }
  if (whole < count) {
    int64_t i = whole;
    for (; i < count; ++i) tile[i] = to_float(logits[i * row.stride]) + (bias == nullptr ? 0 : bias[i]);
    for (; i % kStep != 0; ++i) tile[i] = -kInfinity;
    for (i = whole; i < count; i += kLanes) high[0] = maximum(high[0], load(tile + i));
  }
  return highest(maximum(maximum(high[0], high[1]), maximum(high[2], high[3])));
}

template <typename T>
inline void store_tile(const float* tile, int64_t count, T* out, int64_t stride) {
  const int64_t whole = stride == 1 ? count / kLanes * kLanes : 0;
  for (int64_t i = 0; i < whole; i += kLanes) store(out + i, load(tile + i));
  for (int64_t i = whole; i < count; ++i) convert(tile[i], out[i * stride]);
}

// Takes a token out of the tile that holds it. Returns the tile's new maximum.
inline float ban(float* tile, int64_t count, int64_t token) {
  tile[token] = -kInfinity;
  float high = -kInfinity;
  for (int64_t i = 0; i < count; ++i) high = high > tile[i] ? high : tile[i];
  return high;
}

// The sum of exp((x - maximum) scale); kKeep leaves the exponentials in the tile.
template <bool kKeep>
inline float sum_exponentials(float* tile, int64_t count, float maximum, float scale) {
  // In a tile of nothing but -inf, 0 in place of its maximum gives exponentials of 0 instead of NaN.
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

// exp((maximum of the tile - maximum of the row) scale), by which a tile's sums count in the row.
inline void scale_sums(float* sums, const float* maxima, int64_t count, float maximum, float scale) {
  for (int64_t i = 0; i < count; i += kLanes) {
    store(sums + i, load(sums + i) * exponential((load(maxima + i) - maximum) * scale));
  }
}

// The first of `count` whose prefix sum exceeds `point`, and never one of weight 0; point becomes what is
// left.
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

// A token of the tile whose float64 prefix sum is the first above fraction x total, by way of groups of
// tokens, whose sums are independent chains of additions.
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
inline int64_t draw_token(const Row& row, const Draw& draw, const Tiles& parts, float scale) {
  double total = 0;
  for (int64_t t = 0; t < parts.count; ++t) total += parts.drawable[t];
  double point = draw.uniform * total;
  const int64_t t = invert_cdf(parts.drawable, parts.count, point);
  if (t < 0) return -1;
  // The residual as a fraction of the tile survives any difference in rounding between the two passes.
  const double fraction = point / parts.drawable[t];
  alignas(64) float tile[kTile];
  const int64_t start = t * kTile;
  const int64_t count = start + kTile < row.size ? kTile : row.size - start;
  load_tile<T>(row, start, count, tile);
  if (draw.banned >= start && draw.banned < start + count) tile[draw.banned - start] = -kInfinity;
  sum_exponentials<true>(tile, count, parts.maximum[t], scale);
  return start + draw_in_tile(tile, count, fraction < 1 ? fraction : 1);
}

// A row with a bad number: NaN where there is one, else +inf or -inf.
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
inline void visit_tiles(const Row& row, const Draw& draw, float scale, float* scratch, const Tiles& parts,
                        float& banned_logit) {
  for (int64_t t = 0; t < parts.count; ++t) {
    const int64_t start = t * kTile;
    const int64_t count = start + kTile < row.size ? kTile : row.size - start;
    float* const tile = kKeep ? scratch + start : scratch;
    float high = load_tile<T>(row, start, count, tile);
    const int64_t banned = draw.banned - start;
    if (draw.banned >= 0 && banned >= 0 && banned < count) {
      banned_logit = tile[banned];
      high = ban(tile, count, banned);
    }
    parts.maximum[t] = high;
    if (parts.drawable != parts.total) parts.drawable[t] = sum_exponentials<false>(tile, count, high, scale);
    parts.total[t] = sum_exponentials<kKeep>(tile, count, high, 1);
  }
}

// Statistics of the row and its draw. With kKeep the scratch memory holds exp(x - maximum of the tile)
// afterwards, 0 for the banned token, and the tiles' maxima.
template <typename T, bool kKeep>
inline void visit(const Row& row, const Draw& draw, float* scratch, RowStatistics& out) {
  const bool is_tempered = draw.temperature != 1;
  const float scale = is_tempered ? 1 / draw.temperature : 1;
  const Tiles parts = tiles_in(scratch, row.size, is_tempered);
  float banned_logit = -kInfinity;
  visit_tiles<T, kKeep>(row, draw, scale, scratch, parts, banned_logit);

  float high = -kInfinity;
  double total = 0;
  for (int64_t t = 0; t < parts.count; ++t) high = high > parts.maximum[t] ? high : parts.maximum[t];
  const float reference = high == -kInfinity ? 0 : high;
  if (is_tempered) scale_sums(parts.drawable, parts.maximum, parts.count, reference, scale);
  scale_sums(parts.total, parts.maximum, parts.count, reference, 1);
  for (int64_t t = 0; t < parts.count; ++t) total += parts.total[t];

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
    // The sum without the banned token is what is drawn from; taken off afterwards it would leave rounding
    // alone.
    const double lead = static_cast<double>(banned_logit) - high;
    out.log_sum =
        lead > 0 ? __builtin_log1p(total * __builtin_exp(-lead)) : __builtin_log(total + __builtin_exp(lead));
  }
  out.token = draw_token<T>(row, draw, parts, scale);
}

// exp(x - logsumexp) scale, tile by tile; the scratch memory of one tile is enough.
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
