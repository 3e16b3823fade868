// The scan of a row of logits, which sampling and the masked-LM head share. The row is read once, tile by
// tile, for the maximum of each tile and its sum of exponentials. The draw inverts the CDF in two steps: it
// chooses a tile by the sums, reads that tile again, and chooses a token in it.
//
// One warp scans a tile, from a copy in shared memory. So a tile's sums need no other warp, and have the same
// bits for any number of warps.

#pragma once

#include "row.h"

namespace electra_kernels {
namespace {

constexpr float kLog2E = 1.44269504f;

// exp(x scale), with denormal results flushed to 0, which makes no difference in a sum that also has a 1. The
// exponent is rounded to a float, so the relative error grows with its size.
__device__ inline float exponential(float x, float scale = 1) { return power_of_two(x * (scale * kLog2E)); }

// The number to subtract if the maximum is x. If every logit is -inf, it is 0, because -inf - -inf would give
// NaN.
__device__ inline float finite_or_zero(float x) { return fabsf(x) < kInfinity ? x : 0; }

// ---- the tiles of a row -----------------------------------------------------------------------------------

// How a token is drawn from a row. A negative `banned` bans nothing.
struct Draw {
  double uniform;
  int banned;
  float inverse_temperature;
};

// Maxima and sums of the tiles of a row, each array [count]. The banned token is left out.
struct Tiles {
  float* maximum;
  float* total;     // sum of exp(x - maximum)
  float* drawable;  // sum of exp((x - maximum) / temperature); at temperature 1 the same memory as total
  int count;
};

__device__ inline Tiles tiles_at(float* memory, int size, float inverse_temperature) {
  const int count = tiles_of(size);
  return {memory, memory + count, memory + (inverse_temperature == 1 ? 1 : 2) * count, count};
}

template <typename T>
__device__ float sum_exponentials(const Share<T>& x, float reference, float scale) {
  const float2 subtracted = pair_of(-reference), factor = pair_of(scale * kLog2E);
  float2 chains[2] = {};
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; i += 2) {
      const float2 power = multiply(add(make_float2(x[v][i], x[v][i + 1]), subtracted), factor);
      float2& chain = chains[i / 2 % 2];
      chain = add(chain, make_float2(power_of_two(power.x), power_of_two(power.y)));
    }
  }
  return reduce_warp((chains[0].x + chains[0].y) + (chains[1].x + chains[1].y), Sum());
}

struct TileSums {
  float maximum, total, drawable;
};

__device__ inline void write_sums(const Tiles& tiles, int tile, const TileSums& sums) {
  tiles.maximum[tile] = sums.maximum;
  tiles.total[tile] = sums.total;
  tiles.drawable[tile] = sums.drawable;
}

// Scans a tile of a copy, which begins at column `first`. Returns the same sums in every lane.
template <typename T>
__device__ TileSums scan_tile(const Row<T>& copy, int first, const Draw& draw) {
  const Columns columns = interleaved<T>(first);
  Share<T> x;
  load_copied_tile(copy, columns, x);
  if (!EK_MUTANT(sampling_banned_in_sums)) replace_column<T>(first, columns, draw.banned, -kInfinity, x);
  float maximum = -kInfinity;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) maximum = fmaxf(maximum, x[v][i]);
  }
  // The maximum may miss a NaN, but the sum of exponentials does not.
  maximum = reduce_warp(maximum, Maximum());
  const float reference = finite_or_zero(maximum);
  float total = 0, drawable = 0;
  // Runs once, or twice if the temperature is not 1.
  for (float scale = 1;; scale = draw.inverse_temperature) {
    drawable = sum_exponentials<T>(x, reference, scale);
    if (scale == 1) total = drawable;
    if (scale == draw.inverse_temperature) break;
  }
  return {maximum, total, drawable};
}

// Sums over all tiles of a row.
struct RowSums {
  float high;  // maximum without the banned token
  float maximum;
  float log_sum;  // logarithm of the sum of exp(x - maximum)
  bool is_bad;    // the row has a NaN, +inf or no finite logit

  __device__ LogSumExp logsumexp() const { return {finite_or_zero(maximum), log_sum}; }
};

// Adds up the tiles and the banned token, whose logit is -inf if nothing is banned. Subtracting the banned
// token from a sum that includes it would leave only rounding errors where that token dominates. Every warp
// gets the same result.
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
  // The maximum contributes 1 to the total, unless the row is bad.
  const float log_sum = log1pf(static_cast<float>(total - 1));
  return {high, maximum, log_sum, !(total > 0 && total < kInfinity)};
}

// ---- the draw, by one warp --------------------------------------------------------------------------------

// Chooses the lane whose weight contains fraction x total, by float64 prefix sums, and never a lane of weight
// 0, however the sums are rounded. `fraction` becomes the position inside that lane's weight.
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

// Chooses a tile by its sum, in as many steps as it takes to narrow all tiles down to one with a warp.
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

// A tile, and the position of the draw inside it as a fraction of the tile's sum. A fraction is valid however
// the scan and the draw round their sums.
struct Choice {
  int tile;  // -1: nothing can be drawn
  double fraction;
};

__device__ inline Choice choose(const Tiles& tiles, const RowSums& sums, const Draw& draw) {
  if (sums.is_bad || sums.high == -kInfinity) return {-1, 0};
  double fraction = draw.uniform;
  const int tile = choose_tile(tiles, sums.high, draw.inverse_temperature, fraction);
  return {tile, fraction};
}

// Draws a token of the chosen tile: first the run of columns of a lane, then a column of the run. Returns -1
// if there is no tile. The tile is copied to `memory` first, unless that is null: then the row is a copy.
template <typename T>
__device__ int draw_token(const Row<T>& row, int shift, const Draw& draw, const Tiles& tiles,
                          const Choice& choice, T* memory) {
  if (choice.tile < 0) return -1;
  const float scale = draw.inverse_temperature, maximum = tiles.maximum[choice.tile];
  double fraction = choice.fraction;
  const int first = choice.tile * kTile - shift;
  const Columns columns = in_runs<T>(first);
  Row<T> copy = row;
  if (memory != nullptr) {
    copy = {memory - first, 1, row.size};
    copy_tile_later(row, first, columns, copy);
    end_group_of_copies();
    wait_for_copies<0>();
    __syncwarp();
  }
  double weight = 0;
  EK_ROLLED
  for (int v = 0; v < kVectors<T>; ++v) {
    const int column = columns.begin + v * columns.step;
    float x[kPerVector<T>];
    load_vector(copy.logits + column, x);
    for (int i = 0; i < kPerVector<T>; ++i) {
      const bool is_banned = column + i == draw.banned && !EK_MUTANT(sampling_banned_in_tile);
      weight += is_banned ? 0 : exponential(x[i] - maximum, scale);
    }
  }
  const int run = kTile / kWarp;
  const int column = first + choose_lane(weight, fraction) * run + lane();
  const bool is_drawable = EK_BOUND(sampling_run, row.has(column)) && column != draw.banned;
  const float logit = is_drawable ? logit_at(copy, column) : -kInfinity;
  return column - lane() + choose_lane(exponential(logit - maximum, scale), fraction);
}

// ---- launches ---------------------------------------------------------------------------------------------

// Calls run(T()) with the element type.
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
  int64_t shared_bytes;  // most shared memory of a block
  int cluster;           // most blocks of a cluster
};

#if defined(EK_FIBERS)
// Small, so that the tests also have rows that are too few to fill the device, or too long to be held.
inline Device current_device() { return {2, 32 << 10, 4}; }
#else
inline Device device_of(int device) {
  int multiprocessors = 0, shared_bytes = 0, has_clusters = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&has_clusters, cudaDevAttrClusterLaunch, device));
  return {multiprocessors, shared_bytes, has_clusters ? 8 : 1};
}

// Each host thread asks the runtime once for each device, so a launch makes one call, cudaGetDevice.
inline Device current_device() {
  static thread_local std::map<int, Device> known;
  int device = 0;
  check(cudaGetDevice(&device));
  const auto found = known.find(device);
  return found != known.end() ? found->second : known.emplace(device, device_of(device)).first->second;
}
#endif

// Warps of a block that scans, and blocks of them on a multiprocessor.
constexpr int kScanWarps = 8;
constexpr int kScanBlocks = 3;

inline int warps_of(const LogitRows& rows, int most = kScanWarps) { return min(tiles_of(rows.size), most); }

// Shared memory of the sums of a row's tiles, and what the system keeps of each block.
constexpr int64_t sums_bytes(int size) { return tiles_of(size) * 3 * int64_t{sizeof(float)}; }
constexpr int64_t kSystemBytes = 1024;

// Waits for the oldest of `kAhead` groups of copies.
template <int kAhead>
__device__ void wait_for_oldest_copy() {
  if (EK_MUTANT(rows_copies_not_awaited)) return;
  if (EK_MUTANT(rows_copies_awaited_late)) return wait_for_copies<kAhead>();
  wait_for_copies<kAhead - 1>();
}

}  // namespace
}  // namespace electra_kernels
