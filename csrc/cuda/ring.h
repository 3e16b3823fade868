// The scan of many rows by few blocks, for kernels that keep the logits.
//
// Only as many blocks as run at once are launched, and each has a list of rows. A warp copies the tiles that
// it will scan into a ring in shared memory, kAhead tiles before it needs them, also across the end of a row.
// So the memory never idles: not while a block begins, not while it waits for its slowest warp, and not while
// one warp draws. The sums of the tiles have two sets, so that the last warp draws from a row while the
// others scan the next one.

#pragma once

#include "scan.h"

namespace electra_kernels {
namespace {

// Tiles of a warp's ring. The 24 warps of a multiprocessor have 144 KB in half precision and 192 KB in
// float32 under way or copied. An H200 needs about 30 KB under way on average, a B200 about 50 KB.
template <typename T>
constexpr int kAhead = sizeof(T) == 4 ? 2 : 3;

// How a launch divides a row: one block scans it and draws from it, or `count` blocks scan it and a second
// launch draws.
struct Parts {
  int count;
  bool scans, draws;
};

// The ring of a warp. `Op` tells which rows have tiles, see scan_rows.
template <typename T, typename Op>
class Ring {
 public:
  __device__ Ring(const LogitRows& rows, const Op& op, const Parts& parts, T* memory)
      : rows_(rows), op_(op), parts_(parts), memory_(memory + warp() * kAhead<T> * kTile) {
    item_ = static_cast<int>(blockIdx.x);
    next_label_ = item_ < items() ? op.label(item_ / parts_.count) : 0;
    begin_row();
    EK_ROLLED
    for (int i = 0; i < kAhead<T>; ++i) copy_next();
  }

  // Waits for the copy of the oldest tile and returns it as a row, of which only that tile can be read.
  __device__ Row<T> oldest(int first) const {
    wait_for_oldest_copy<kAhead<T>>();
    return held_at(first);
  }

  // Starts to copy the next tile to where the oldest has been, which this lane must have read.
  __device__ void copy_next() {
    while (item_ < items() && (tile_ >= tiles_of(rows_.size) || is_skipped_)) {
      item_ += static_cast<int>(gridDim.x);
      begin_row();
    }
    if (item_ < items()) {
      const int first = tile_ * kTile - row_.shift();
      copy_tile_later(row_, first, interleaved<T>(first), held_at(first));
      tile_ += step();
    }
    end_group_of_copies();
    slot_ = slot_ == kAhead<T> - 1 ? 0 : slot_ + 1;
  }

  // Parts of rows, of which every block has some.
  __device__ int items() const { return static_cast<int>(rows_.count) * parts_.count; }

  // Tiles of a row that this warp has: first_tile(), first_tile() + step(), ...
  __device__ int first_tile() const { return static_cast<int>(blockIdx.x % parts_.count) * warps() + warp(); }
  __device__ int step() const { return parts_.count * warps(); }

 private:
  static __device__ int warps() { return static_cast<int>(blockDim.x) / kWarp; }
  __device__ Row<T> held_at(int first) const { return {memory_ + slot_ * kTile - first, 1, rows_.size}; }

  // Reads the label of the row after this one, so that nobody waits for it.
  __device__ void begin_row() {
    if (item_ >= items()) return;
    is_skipped_ = op_.skips(next_label_);
    row_ = row_at<T>(rows_, item_ / parts_.count);
    tile_ = first_tile();
    const int next = item_ + static_cast<int>(gridDim.x);
    if (next < items()) next_label_ = op_.label(next / parts_.count);
  }

  const LogitRows& rows_;
  const Op& op_;
  const Parts& parts_;
  T* const memory_;
  int item_;
  int64_t next_label_;
  bool is_skipped_ = false;
  Row<T> row_ = {};
  int tile_ = 0, slot_ = 0;
};

// Scans this block's rows and draws from them. `op` has
//
//     label(index)                   a number that each row has
//     skips(label)                   whether the row is not scanned
//     banned(rows, label)            the token that is never drawn, or -1
//     inverse_temperature()
//     finish(rows, index, tiles, memory)
//
// One warp calls `finish` when the sums of the row's tiles are complete; it has `memory` for one tile.
template <typename T, typename Op>
__device__ void scan_rows(const LogitRows& rows, const Op& op, float* scratch, const Parts& parts) {
  EK_DYNAMIC_SHARED(memory, T);  // a tile, the rings of the warps, and two sets of sums
  const int warps = static_cast<int>(blockDim.x) / kWarp, count = tiles_of(rows.size);
  const auto tiles_of_row = [&](int index, int set) {
    float* const sums = reinterpret_cast<float*>(memory + (1 + warps * kAhead<T>)*kTile) + set * 3 * count;
    return tiles_at(scratch == nullptr ? sums : scratch + index * int64_t{3} * count, rows.size,
                    op.inverse_temperature());
  };
  if (!parts.scans) {
    EK_WAIT_FOR_FIRST(rows_scan_wait);
    return op.finish(rows, blockIdx.x, tiles_of_row(blockIdx.x, 0), memory);
  }
  if (!parts.draws) let_second_begin();
  Ring<T, Op> ring(rows, op, parts, memory + kTile);
  int set = 0;
  for (int item = blockIdx.x; item < ring.items(); item += gridDim.x) {
    const int index = item / parts.count;
    const int64_t label = op.label(index);
    if (!op.skips(label)) {
      const Tiles tiles = tiles_of_row(index, set);
      const int shift = row_at<T>(rows, index).shift();
      // The scan needs no uniform.
      const Draw draw = {0, op.banned(rows, label), op.inverse_temperature()};
      for (int tile = ring.first_tile(); tile < count; tile += ring.step()) {
        const int first = tile * kTile - shift;
        if (EK_MUTANT(rows_ring_refilled_early)) ring.copy_next();
        const TileSums found = scan_tile(ring.oldest(first), first, draw);
        if (lane() == 0) write_sums(tiles, tile, found);
        if (!EK_MUTANT(rows_ring_refilled_early)) ring.copy_next();
      }
    }
    // No warp is more than one row ahead of the one that draws, so two sets are enough.
    EK_BARRIER(rows_tiles_complete);
    EK_WAIT_FOR_FIRST(rows_wait);
    // The last warp has the fewest tiles.
    if (parts.draws && warp() == warps - 1) op.finish(rows, index, tiles_of_row(index, set), memory);
    if (!EK_MUTANT(rows_one_set_of_sums)) set ^= 1;
  }
}

// ---- launches ---------------------------------------------------------------------------------------------

// Shared memory for two sets of sums; longer rows have them in scratch memory.
constexpr int64_t kSumsBytes = 16 << 10;

// Blocks per row: more than one if there are too few rows to give each multiprocessor two.
inline int parts_of(const LogitRows& rows) {
  const int64_t wanted = 2 * current_device().multiprocessors;
  const int most = (tiles_of(rows.size) + kScanWarps - 1) / kScanWarps;
  if (rows.count == 0 || rows.count >= wanted) return 1;
  return static_cast<int>(min((2 * wanted + rows.count - 1) / rows.count, static_cast<int64_t>(most)));
}

// Calls body(parts, launch), once or twice. `overlap` is that of the first launch.
template <typename T, typename Body>
void scan_in_parts(const LogitRows& rows, const float* scratch, cudaStream_t stream, Overlap overlap,
                   const Body& body) {
  const int parts = parts_of(rows), warps = warps_of(rows);
  const int64_t sums = scratch == nullptr ? 2 * sums_bytes(rows.size) : 0;
  const int64_t tile = kTile * int64_t{sizeof(T)}, shared = (1 + warps * kAhead<T>)*tile + sums;
  if (parts == 1) {
    const Device device = current_device();
    const int64_t each =
        min(device.shared_bytes / (shared + kSystemBytes), int64_t{kScanBlocks * kScanWarps / warps});
    const int64_t blocks = min(rows.count, max(each, int64_t{1}) * device.multiprocessors);
    body(Parts{1, true, true}, Launch{blocks, warps * kWarp, stream, shared, 1, overlap});
  } else {
    // A launch cannot both overlap the one before it and be overlapped.
    const bool is_free = overlap == Overlap::kNone;
    body(Parts{parts, true, false},
         Launch{rows.count * parts, warps * kWarp, stream, shared, 1, is_free ? Overlap::kFirst : overlap});
    body(Parts{1, false, true},
         Launch{rows.count, kWarp, stream, tile, 1, is_free ? Overlap::kSecond : Overlap::kNone});
  }
}

}  // namespace
}  // namespace electra_kernels
