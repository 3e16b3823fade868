// The visit to a row of logits that sampling and the masked-LM head share: of each tile its maximum and its
// sum of exponentials, then the draw: a tile by inverse CDF over the sums, and a token inside it, which is
// read again.
//
// A tile belongs to one warp, which has it in registers, so that its sums need no other warp and are the same
// bits whatever the number of warps.

#pragma once

#include "reduce.h"
#include "row.h"

namespace electra_kernels {
namespace {

constexpr float kLog2E = 1.44269504f;

// exp(x scale), 0 where that is denormal, which in a sum with a 1 says nothing; the exponent is rounded, so
// its error is that of a float of its size.
__device__ inline float exponential(float x, float scale = 1) { return power_of_two(x * (scale * kLog2E)); }

// What to subtract where the maximum is x: of nothing but -inf, -inf would make NaN.
__device__ inline float finite_or_zero(float x) { return fabsf(x) < kInfinity ? x : 0; }

// ---- the tiles of a row -----------------------------------------------------------------------------------

// What is drawn. Banned: negative bans nothing.
struct Draw {
  double uniform;
  int banned;
  float inverse_temperature;
};

// Each array [count], without the banned token.
struct Tiles {
  float* maximum;
  float* total;     // sum of exp(x - maximum)
  float* drawable;  // sum of exp((x - maximum) / temperature); the same memory as total at temperature 1
  int count;
};

__device__ inline Tiles tiles_at(float* memory, int size, float inverse_temperature) {
  const int count = tiles_of(size);
  return {memory, memory + count, memory + (inverse_temperature == 1 ? 1 : 2) * count, count};
}

template <typename T>
__device__ float sum_exponentials(const Share<T>& x, float reference, float scale) {
  float chains[4] = {};
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) chains[i % 4] += exponential(x[v][i] - reference, scale);
  }
  return reduce_warp((chains[0] + chains[1]) + (chains[2] + chains[3]), Sum());
}

struct TileSums {
  float maximum, total, drawable;
};

__device__ inline void write_sums(const Tiles& tiles, int tile, const TileSums& sums) {
  tiles.maximum[tile] = sums.maximum;
  tiles.total[tile] = sums.total;
  tiles.drawable[tile] = sums.drawable;
}

// The same in every lane.
template <typename T>
__device__ TileSums visit_tile(const Row<T>& row, int shift, const Draw& draw, int tile) {
  const int first = tile * kTile - shift;
  const Places places = interleaved<T>(first);
  Share<T> x;
  load_tile(row, first, places, x);
  if (!EK_MUTANT(sampling_banned_in_sums)) replace_column<T>(first, places, draw.banned, -kInfinity, x);
  float maximum = -kInfinity;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) maximum = fmaxf(maximum, x[v][i]);
  }
  // A NaN may be missing in it; the sum of exponentials has it.
  maximum = reduce_warp(maximum, Maximum());
  const float reference = finite_or_zero(maximum);
  float total = 0, drawable = 0;
  // Once, or at another temperature twice, by the same code.
  for (float scale = 1;; scale = draw.inverse_temperature) {
    drawable = sum_exponentials<T>(x, reference, scale);
    if (scale == 1) total = drawable;
    if (scale == draw.inverse_temperature) break;
  }
  return {maximum, total, drawable};
}

// Of all tiles, the same in every warp that asks. The maximum among what may be drawn is `high`.
struct RowSums {
  float high;
  float maximum;
  float log_total;  // logarithm of the sum of exp(x - maximum)
  bool is_bad;      // NaN, +inf or no finite logit

  __device__ LogSumExp logsumexp() const { return {finite_or_zero(maximum), log_total}; }
};

// The banned token's logit is added back (it is -inf where nothing is banned): taken off a sum that has it,
// it would leave rounding alone where it dominates.
__device__ inline RowSums sum_tiles(const Tiles& tiles, float banned_logit) {
  float high = -kInfinity;
  for (int t = lane(); t < tiles.count; t += kWarp) high = fmaxf(high, tiles.maximum[t]);
  high = reduce_warp(high, Maximum());
  const float maximum = fmaxf(high, banned_logit), reference = finite_or_zero(maximum);
  double total = 0;
  for (int t = lane(); t < tiles.count; t += kWarp) {
    total += tiles.total[t] * exponential(tiles.maximum[t] - reference);
  }
  total = reduce_warp(total, Sum()) + exponential(banned_logit - reference);
  // The maximum's own share is 1, unless the row is bad.
  const float log_total = log1pf(static_cast<float>(total - 1));
  return {high, maximum, log_total, !(total > 0 && total < kInfinity)};
}

// ---- the gradient -----------------------------------------------------------------------------------------

// Nothing was counted: loss and gradient are 0.
__device__ inline double reciprocal_or_zero(double denominator) {
  return denominator != 0 ? 1 / denominator : 0;
}

// At the target softmax - 1 would leave rounding alone of a loss near 0: expm1 of its `distance` from the
// log-sum-exp does not. No target is negative.
template <typename T>
__device__ void soft_max_less_target(int first, const Places& places, const LogSumExp& logsumexp, int target,
                                     float distance, float scale, Share<T>& x) {
  for (int v = 0; v < kVectors<T>; ++v) {
    // Denormal numbers too: an upstream gradient may lift them.
    for (int i = 0; i < kPerVector<T>; ++i) {
      x[v][i] = exp2f(((x[v][i] - logsumexp.maximum) - logsumexp.log_total) * kLog2E) * scale;
    }
  }
  replace_column<T>(first, places, target, expm1f(distance) * scale, x);
}

// ---- the draw, by one warp --------------------------------------------------------------------------------

// The lane in whose weight fraction x total lies, by float64 prefix sums; what lies below in that weight
// becomes the fraction. Never a lane of weight 0, however the sums are rounded.
__device__ inline int choose_lane(double weight, double& fraction) {
  double prefix = weight;
  for (int step = 1; step < kWarp; step *= 2) {
    const double lower = __shfl_up_sync(kAllLanes, prefix, step);
    if (EK_BOUND(sampling_scan, lane() >= step)) prefix += lower;
  }
  const double point = fraction * __shfl_sync(kAllLanes, prefix, kWarp - 1);
  const unsigned weighty = __ballot_sync(kAllLanes, weight > 0);
  const unsigned above = __ballot_sync(kAllLanes, prefix > point) & weighty;
  const int chosen = above != 0 ? __ffs(above) - 1 : kWarp - 1 - __clz(weighty);
  const double rest = point - __shfl_sync(kAllLanes, prefix - weight, chosen);
  fraction = fmin(fmax(rest / __shfl_sync(kAllLanes, weight, chosen), 0.0), 1.0);
  return chosen;
}

__device__ inline int choose_tile(const Tiles& tiles, float high, float scale, double& fraction) {
  int begin = 0, end = tiles.count;
  while (end - begin > 1) {
    const int run = (end - begin + kWarp - 1) / kWarp;
    const int first = begin + lane() * run;
    double weight = 0;
    for (int t = first; t < min(first + run, end); ++t) {
      weight += tiles.drawable[t] * exponential(tiles.maximum[t] - high, scale);
    }
    begin += choose_lane(weight, fraction) * run;
    end = min(begin + run, end);
  }
  return begin;
}

// A tile, and what is left of the uniform number in it: that makes the visits to the tile agree, whatever
// their rounding.
struct Choice {
  int tile;  // -1: there is nothing to draw
  double fraction;
};

__device__ inline Choice choose(const Tiles& tiles, const RowSums& sums, const Draw& draw) {
  if (sums.is_bad || sums.high == -kInfinity) return {-1, 0};
  double fraction = draw.uniform;
  const int tile = choose_tile(tiles, sums.high, draw.inverse_temperature, fraction);
  return {tile, fraction};
}

// A token of the chosen tile: a run of it, then one of that; -1 where there is no tile.
template <typename T>
__device__ int draw_token(const Row<T>& row, int shift, const Draw& draw, const Tiles& tiles,
                          const Choice& choice) {
  if (choice.tile < 0) return -1;
  const float scale = draw.inverse_temperature, maximum = tiles.maximum[choice.tile];
  double fraction = choice.fraction;
  const int first = choice.tile * kTile - shift;
  const Places places = in_runs<T>(first);
  Share<T> x;
  load_tile(row, first, places, x);
  if (!EK_MUTANT(sampling_banned_in_tile)) replace_column<T>(first, places, draw.banned, -kInfinity, x);
  double weight = 0;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) weight += exponential(x[v][i] - maximum, scale);
  }
  const int run = kTile / kWarp;
  const int column = first + choose_lane(weight, fraction) * run + lane();
  const bool is_drawable = EK_BOUND(sampling_run, row.has(column)) && column != draw.banned;
  const float logit = is_drawable ? logit_at(row, column) : -kInfinity;
  return column - lane() + choose_lane(exponential(logit - maximum, scale), fraction);
}

// ---- launches ---------------------------------------------------------------------------------------------

// run(zero of the type)
template <typename Run>
void with_type(Type type, const Run& run) {
  if (type == Type::kFloat32) {
    run(float());
  } else if (type == Type::kBFloat16) {
    run(BFloat16());
  } else {
    run(Float16());
  }
}

struct Device {
  int64_t multiprocessors;
  int64_t shared_bytes;  // that a block may ask for
  int cluster;           // most blocks of one
};

inline Device current_device() {
#if defined(EK_FIBERS)
  // So small that the tests' rows are too few to fill it, or too long to be held.
  return {2, 32 << 10, 4};
#else
  int device = 0, multiprocessors = 0, shared_bytes = 0, has_clusters = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&has_clusters, cudaDevAttrClusterLaunch, device));
  return {multiprocessors, shared_bytes, has_clusters ? 8 : 1};
#endif
}

// A row is visited by one block, which draws from it too; or by several, and a second launch draws.
struct Parts {
  int count;
  bool visits, draws;
};

constexpr int kVisitWarps = 8;

inline int warps_of(const LogitRows& rows, int most = kVisitWarps) { return min(tiles_of(rows.size), most); }

// More than one where rows are too few for every multiprocessor to have two.
inline int parts_of(const LogitRows& rows) {
  const int64_t wanted = 2 * current_device().multiprocessors;
  const int most = (tiles_of(rows.size) + kVisitWarps - 1) / kVisitWarps;
  if (rows.count == 0 || rows.count >= wanted) return 1;
  return static_cast<int>(min((2 * wanted + rows.count - 1) / rows.count, static_cast<int64_t>(most)));
}

// body(parts, launch), once or twice. The tiles' sums are in dynamic shared memory, or in scratch memory.
template <typename Body>
void visit_in_parts(const LogitRows& rows, const float* scratch, cudaStream_t stream, const Body& body) {
  const int parts = parts_of(rows), threads = warps_of(rows) * kWarp;
  const int64_t shared = scratch == nullptr ? 3 * tiles_of(rows.size) * sizeof(float) : 0;
  if (parts == 1) {
    body(Parts{1, true, true}, Launch{rows.count, threads, stream, shared});
  } else {
    body(Parts{parts, true, false}, Launch{rows.count * parts, threads, stream});
    body(Parts{1, false, true}, Launch{rows.count, kWarp, stream});
  }
}

template <typename T>
__device__ void visit_part(const Row<T>& row, int shift, const Draw& draw, const Tiles& tiles, int parts) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int part = static_cast<int>(blockIdx.x % parts);
  for (int tile = part * warps + warp(); tile < tiles.count; tile += parts * warps) {
    const TileSums sums = visit_tile(row, shift, draw, tile);
    if (lane() == 0) write_sums(tiles, tile, sums);
  }
}

}  // namespace
}  // namespace electra_kernels
