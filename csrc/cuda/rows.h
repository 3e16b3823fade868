// The visit to a row of logits that sampling and the masked-LM head share: of each tile its maximum and its
// sum of exponentials, then the draw: a tile by inverse CDF over the sums, and a token inside it, which is
// read again.
//
// A tile belongs to one warp, which has it in registers, so that its sums need no other warp and are the same
// bits whatever the number of warps. Tiles begin at the 16-byte boundaries of memory, not at those of the
// row: a row that starts at any element (of 30,522 bfloat16 every row but each fourth does) is read by whole
// vectors all the same, but for its first and its last.

#pragma once

#include "elements.h"
#include "reduce.h"

namespace electra_kernels {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr float kNaN = __builtin_nanf("");

// Of a tile, those of a lane.
template <typename T>
constexpr int kVectors = kTile / (kWarp * kPerVector<T>);
template <typename T>
using Share = float[kVectors<T>][kPerVector<T>];

constexpr float kLog2E = 1.44269504f;

// exp(x scale); the exponent is rounded, so its error is that of a float of its size.
__device__ inline float exponential(float x, float scale = 1) { return exp2f(x * (scale * kLog2E)); }

// What to subtract where the maximum is x: of nothing but -inf, -inf would make NaN.
__device__ inline float finite_or_zero(float x) { return fabsf(x) < kInfinity ? x : 0; }

struct Higher {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// ---- a row in memory --------------------------------------------------------------------------------------

template <typename T>
struct Row {
  T* logits;
  const float* bias;  // [size] or null
  int64_t stride;
  int size;

  __device__ bool has(int column) const { return column >= 0 && column < size; }
  __device__ T& operator[](int column) const { return logits[column * stride]; }

  // Whether `count` columns are a run of whole vectors.
  __device__ bool has_vectors(int column, int count) const {
    return stride == 1 && EK_BOUND(sampling_start_of_row, column >= 0) &&
           EK_BOUND(sampling_end_of_row, column + count <= size) &&
           EK_BOUND(memory_aligned, is_aligned(logits + column));
  }

  // Columns by which a 16-byte boundary comes before the first.
  __device__ int shift() const {
    return stride == 1 ? static_cast<int>(reinterpret_cast<uintptr_t>(logits) % 16 / sizeof(T)) : 0;
  }
};

template <typename T>
__device__ Row<T> row_at(const LogitRows& rows, int64_t index) {
  return {static_cast<T*>(rows.data) + offset(rows.layout, index), rows.bias, rows.stride, rows.size};
}

// NaN where there is no such column.
template <typename T>
__device__ float logit_at(const Row<T>& row, int64_t column) {
  if (static_cast<uint64_t>(column) >= static_cast<uint64_t>(row.size)) return kNaN;
  const float x = to_float(row[static_cast<int>(column)]);
  return row.bias == nullptr ? x : x + row.bias[column];
}

template <typename T>
__device__ void add_bias(const Row<T>& row, int column, float (&x)[kPerVector<T>]) {
  const float* const bias = row.bias + column;
  if (column >= 0 && EK_BOUND(linear_mlm_head_end_of_bias, column + kPerVector<T> <= row.size) &&
      is_aligned(bias)) {
    for (int i = 0; i < kPerVector<T>; i += 4) {
      float four[4];
      load_vector(bias + i, four);
      for (int k = 0; k < 4; ++k) x[i + k] += four[k];
    }
  } else {
    for (int i = 0; i < kPerVector<T>; ++i) {
      if (row.has(column + i)) x[i] += bias[i];
    }
  }
}

// Neighbours as floats, bias added; -inf outside of the row.
template <typename T>
__device__ void load_columns(const Row<T>& row, int column, float (&x)[kPerVector<T>]) {
  if (row.has_vectors(column, kPerVector<T>)) {
    load_vector(row.logits + column, x);
  } else {
    for (int i = 0; i < kPerVector<T>; ++i)
      x[i] = row.has(column + i) ? to_float(row[column + i]) : -kInfinity;
  }
  if (row.bias != nullptr) add_bias(row, column, x);
}

template <typename T>
__device__ void store_columns(const Row<T>& row, int column, const float (&x)[kPerVector<T>]) {
  if (row.has_vectors(column, kPerVector<T>)) {
    store_vector(row.logits + column, x);
    return;
  }
  for (int i = 0; i < kPerVector<T>; ++i) {
    if (EK_BOUND(memory_columns_written, row.has(column + i))) convert(x[i], row[column + i]);
  }
}

// Where a lane's share of a tile that begins at column `first` lies: vector v at `begin + v * step`.
struct Places {
  int begin;
  int step;
};

// Neighbours are in neighbouring lanes, for loads that a warp makes at once.
template <typename T>
__device__ Places interleaved(int first) {
  return {first + lane() * kPerVector<T>, kWarp * kPerVector<T>};
}

// Neighbours are in one lane, for prefix sums.
template <typename T>
__device__ Places in_runs(int first) {
  return {first + lane() * kVectors<T> * kPerVector<T>, kPerVector<T>};
}

template <typename T>
__device__ void load_tile(const Row<T>& row, int first, const Places& places, Share<T>& x) {
  if (row.has_vectors(first, kTile)) {
    for (int v = 0; v < kVectors<T>; ++v) load_vector(row.logits + places.begin + v * places.step, x[v]);
    if (row.bias == nullptr) return;
    for (int v = 0; v < kVectors<T>; ++v) add_bias(row, places.begin + v * places.step, x[v]);
  } else {
    for (int v = 0; v < kVectors<T>; ++v) load_columns(row, places.begin + v * places.step, x[v]);
  }
}

template <typename T>
__device__ void store_tile(const Row<T>& row, const Places& places, const Share<T>& x) {
  for (int v = 0; v < kVectors<T>; ++v) store_columns(row, places.begin + v * places.step, x[v]);
}

// In the lane that has the column; in the others it says nothing.
template <typename T>
__device__ float column_of(const Places& places, int column, const Share<T>& x) {
  float found = 0;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) {
      if (places.begin + v * places.step + i == column) found = x[v][i];
    }
  }
  return found;
}

// Puts a value in the place of a column's, if that is in the tile.
template <typename T>
__device__ void replace_column(int first, const Places& places, int column, float value, Share<T>& x) {
  if (column < first || column >= first + kTile) return;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) {
      if (places.begin + v * places.step + i == column) x[v][i] = value;
    }
  }
}

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

template <typename T>
__device__ void visit_tile(const Row<T>& row, int shift, const Draw& draw, const Tiles& tiles, int tile) {
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
  maximum = reduce_warp(maximum, Higher());
  const float reference = finite_or_zero(maximum);
  const float total = sum_exponentials<T>(x, reference, 1);
  const float scale = draw.inverse_temperature;
  const float drawable = scale == 1 ? total : sum_exponentials<T>(x, reference, scale);
  if (lane() != 0) return;
  tiles.maximum[tile] = maximum;
  tiles.total[tile] = total;
  tiles.drawable[tile] = drawable;
}

// Of all tiles, the same in every warp that asks. The maximum among what may be drawn is `high`.
struct RowSums {
  float high;
  float maximum;
  float log_total;  // logarithm of the sum of exp(x - maximum)
  bool is_bad;      // NaN, +inf or no finite logit

  __device__ float logsumexp() const { return finite_or_zero(maximum) + log_total; }
};

// The banned token's logit is added back (it is -inf where nothing is banned): taken off a sum that has it,
// it would leave rounding alone where it dominates.
__device__ inline RowSums sum_tiles(const Tiles& tiles, float banned_logit) {
  float high = -kInfinity;
  for (int t = lane(); t < tiles.count; t += kWarp) high = fmaxf(high, tiles.maximum[t]);
  high = reduce_warp(high, Higher());
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
__device__ void soft_max_less_target(int first, const Places& places, float logsumexp, int target,
                                     float distance, float scale, Share<T>& x) {
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) x[v][i] = exponential(x[v][i] - logsumexp) * scale;
  }
  replace_column<T>(first, places, target, expm1f(distance) * scale, x);
}

// ---- the draw, by one warp --------------------------------------------------------------------------------

// Goes over weights to the first whose float64 prefix sum is above the point, and never to one of weight 0.
struct Walk {
  double point;
  double prefix = 0;
  double below = 0;
  float weight = 1;
  int chosen = -1;

  __device__ explicit Walk(double point) : point(point) {}
  __device__ void pass(int index, float next) {
    if (!EK_BOUND(sampling_no_weight, next > 0) || prefix > point) return;
    chosen = index;
    below = prefix;
    weight = next;
    prefix += next;
  }
  // Of the chosen weight, what lies below the point.
  __device__ double fraction() const { return fmin((point - below) / weight, 1.0); }
};

// The lane that holds fraction x total, where each has the sum of a run of weights, and what of the point is
// left in its run.
__device__ inline int choose_lane(double own, double fraction, double& point) {
  double prefix = own;
  for (int step = 1; step < kWarp; step *= 2) {
    const double lower = __shfl_up_sync(kAllLanes, prefix, step);
    if (EK_BOUND(sampling_scan, lane() >= step)) prefix += lower;
  }
  point = fraction * __shfl_sync(kAllLanes, prefix, kWarp - 1);
  const unsigned above = __ballot_sync(kAllLanes, own > 0 && prefix > point);
  const unsigned any = __ballot_sync(kAllLanes, own > 0);
  const int owner = above != 0 ? __ffs(above) - 1 : kWarp - 1 - __clz(any);
  point = fmax(point - __shfl_sync(kAllLanes, prefix - own, owner), 0.0);
  return owner;
}

// A token of a row that is not bad, and has one that is not banned. What is left of the fraction makes the
// two visits to the tile agree, whatever their rounding.
template <typename T>
__device__ int draw_token(const Row<T>& row, int shift, const Draw& draw, const Tiles& tiles, float high) {
  const float scale = draw.inverse_temperature;
  const int run = (tiles.count + kWarp - 1) / kWarp;
  const int begin = min(lane() * run, tiles.count), end = min(begin + run, tiles.count);
  const auto weight = [&](int t) { return tiles.drawable[t] * exponential(tiles.maximum[t] - high, scale); };
  double own = 0, point;
  for (int t = begin; t < end; ++t) own += weight(t);
  int owner = choose_lane(own, draw.uniform, point);
  Walk over_tiles(point);
  for (int t = begin; t < end; ++t) over_tiles.pass(t, weight(t));
  const int tile = __shfl_sync(kAllLanes, over_tiles.chosen, owner);
  const double fraction = __shfl_sync(kAllLanes, over_tiles.fraction(), owner);

  const int first = tile * kTile - shift;
  const Places places = in_runs<T>(first);
  Share<T> x;
  load_tile(row, first, places, x);
  if (!EK_MUTANT(sampling_banned_in_tile)) replace_column<T>(first, places, draw.banned, -kInfinity, x);
  own = 0;
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) {
      x[v][i] = exponential(x[v][i] - tiles.maximum[tile], scale);
      own += x[v][i];
    }
  }
  owner = choose_lane(own, fraction, point);
  Walk over_tokens(point);
  for (int v = 0; v < kVectors<T>; ++v) {
    for (int i = 0; i < kPerVector<T>; ++i) over_tokens.pass(places.begin + v * places.step + i, x[v][i]);
  }
  return __shfl_sync(kAllLanes, over_tokens.chosen, owner);
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
};

inline Device current_device() {
#if defined(EK_FIBERS)
  // So small that the tests' rows are too few to fill it, or too long to be held.
  return {2, 32 << 10};
#else
  int device = 0, multiprocessors = 0, shared_bytes = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return {multiprocessors, shared_bytes};
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
    visit_tile(row, shift, draw, tiles, tile);
  }
}

}  // namespace
}  // namespace electra_kernels
