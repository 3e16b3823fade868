// The discriminator's last linear layer, fused with its loss and with the gradient of its weight: hidden
// states are read once in all, their gradient is written once.
//
// Torch would read the hidden states for the logits and again for the gradient of the weight, and keep a
// chain of small tensors for the loss. Here a warp holds a few rows in registers. They give their logits; the
// logits give loss and slope, one row per lane; and the rows times their slopes are added to the warp's part
// of the gradient before the rows are dropped. That is legal because "mean" and "sum" only scale this
// gradient, by a number that the backward knows. Each block writes its part once, and a second kernel, which
// begins meanwhile, adds up the parts in order.
//
// The backward writes slope x weight from the logits and reads no hidden states. A loss per token is the
// exception: its slopes, and with them the gradients of the parameters, need the upstream gradient first.
//
// Rows that are not whole vectors of 16 bytes, or too wide for registers, are read again for the gradient
// while the block still has them in its cache.

#include "tokens.h"

namespace electra_kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kMaxBlocks = 512;
constexpr int kMinBlocks = 6;  // resident blocks per SM; without a limit ptxas spills to raise occupancy
constexpr int kUnit = 256;     // a warp holds a multiple of these columns, 8 per lane
constexpr int kMaxUnits = 4;

// ---- rows of a warp ---------------------------------------------------------------------------------------

// Rows [first, first + kRows), one per lane of the first kRows lanes. Past the last row, row 0 stands in and
// is not counted.
template <int kRows>
struct Group {
  __device__ Group(const TokenBatch& batch, int64_t first)
      : row(first + lane()),
        is_inside(lane() < kRows && EK_BOUND(rtd_head_rows_end, row < batch.count)),
        offsets(batch, is_inside ? row : 0) {
    if (is_inside) token = token_at(batch, offsets);
  }

  int64_t row;
  bool is_inside;
  Offsets offsets;
  Token token;
};

// Writes logit and loss, adds to the sums, and returns the slope; 0 if no gradient is asked for.
template <int kRows>
__device__ float score(const Group<kRows>& group, float x, const HeadOutputs& out, TokenSums& sums) {
  if (!group.is_inside) return 0;
  const float decay = decay_of(x), loss = token_loss(group.token, x, decay);
  count(group.token, x, sums);
  sums.loss += loss;
  out.logits[group.row] = x;
  if (out.losses != nullptr) out.losses[group.row] = loss;
  if (out.weight_partials == nullptr) return 0;
  const float slope = token_gradient(group.token, x, decay);
  sums.gradient += slope;
  return slope;
}

template <int kRows>
__device__ float upstream_slope(const TokenBatch& batch, const Group<kRows>& group, float factor) {
  if (!group.is_inside) return 0;
  const float x = number_at(batch.tensors[kLogits], group.offsets.of[kLogits]);
  const float upstream = number_at(batch.tensors[kUpstream], group.offsets.of[kUpstream]);
  return scaled_gradient(group.token, x, upstream * factor);
}

__device__ float bias_of(const HeadRows& rows) {
  return rows.bias.data == nullptr ? 0 : number_at(rows.bias, 0);
}

template <int N>
__device__ void load_weight(const HeadRows& rows, int64_t column, float (&weight)[N]) {
  const int64_t stride = rows.weight.strides[0];
  with_float_type(rows.weight.type, [&](auto zero) {
    const auto* const first = static_cast<const decltype(zero)*>(rows.weight.data) + column * stride;
    load_run(first, stride, rows.size - column, weight);
  });
}

// ---- forward ----------------------------------------------------------------------------------------------

// Rows that a warp holds: as many as leave room in the registers for weight and gradient.
constexpr int held_rows(int pieces) { return pieces <= 2 ? 8 : pieces <= 4 ? 4 : 2; }

// For rows of up to kMaxUnits * kUnit columns that are whole vectors. A piece is 16 bytes of a row, held by
// one lane.
template <typename T, int kUnits>
__global__ void __launch_bounds__(kThreads)
    forward_held(const __grid_constant__ TokenBatch batch, const __grid_constant__ HeadRows rows,
                 const __grid_constant__ HeadOutputs out, const __grid_constant__ TokenTotals totals) {
  constexpr int kEach = kPerVector<T>, kPieces = kUnits * kUnit / kWarp / kEach;
  constexpr int kRows = held_rows(kPieces), kWidth = kUnits * kUnit;
  EK_DYNAMIC_SHARED(joined, float);  // [kWarps, kWidth]
  let_second_begin();
  const T* const hidden = static_cast<const T*>(batch.tensors[kHidden].data);
  const float bias = bias_of(rows);
  float weight[kPieces][kEach], gradient[kPieces][kEach];
  EK_UNROLL
  for (int p = 0; p < kPieces; ++p) {
    load_weight(rows, (p * kWarp + lane()) * kEach, weight[p]);
    EK_UNROLL
    for (int i = 0; i < kEach; ++i) gradient[p][i] = 0;
  }
  TokenSums sums;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps * kRows;
  int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps + warp()) * kRows;
  for (; first < batch.count; first += step) {
    const Group<kRows> group(batch, first);
    uint4 held[kRows][kPieces];
    EK_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int64_t offset = __shfl_sync(kAllLanes, group.offsets.of[kHidden], r);
      EK_UNROLL
      for (int p = 0; p < kPieces; ++p) {
        const int column = (p * kWarp + lane()) * kEach;
        const bool is_there = EK_BOUND(token_sizes_columns_end, column < rows.size);
        held[r][p] = is_there ? load16(hidden + offset + column) : make_uint4(0, 0, 0, 0);
      }
    }
    float x = 0;
    EK_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float dot = 0;
      EK_UNROLL
      for (int p = 0; p < kPieces; ++p) {
        float h[kEach];
        unpack<T>(held[r][p], h);
        EK_UNROLL
        for (int i = 0; i < kEach; ++i) dot = fmaf(h[i], weight[p][i], dot);
        forget_unpacked(held[r][p]);
      }
      dot = reduce_warp(dot, Sum());
      if (lane() == r) x = dot;
    }
    const float slopes = score(group, x + bias, out, sums);
    EK_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float slope = __shfl_sync(kAllLanes, slopes, r);
      // A row of slope 0 may hold NaN or infinity.
      if (EK_BOUND(token_sizes_no_slope, slope != 0)) {
        EK_UNROLL
        for (int p = 0; p < kPieces; ++p) {
          float h[kEach];
          unpack<T>(held[r][p], h);
          EK_UNROLL
          for (int i = 0; i < kEach; ++i) gradient[p][i] = fmaf(h[i], slope, gradient[p][i]);
        }
      }
    }
  }
  if (out.weight_partials != nullptr) {
    EK_UNROLL
    for (int p = 0; p < kPieces; ++p) {
      EK_UNROLL
      for (int i = 0; i < kEach; ++i) {
        joined[warp() * kWidth + (p * kWarp + lane()) * kEach + i] = gradient[p][i];
      }
    }
    EK_BARRIER(token_sizes_gradients_written);
    for (int column = threadIdx.x; column < rows.size; column += kThreads) {
      float total = 0;
      for (int w = 0; w < kWarps; ++w) total += joined[w * kWidth + column];
      out.weight_partials[blockIdx.x * rows.size + column] = total;
    }
  }
  store_sums<kWarps>(sums, totals);
}

// Logit of a row of any layout, without bias.
template <typename T>
__device__ float dot(const HeadRows& rows, const T* row) {
  constexpr int kEach = kPerVector<T>;
  float total = 0;
  for (int64_t column = lane() * kEach; column < rows.size; column += kWarp * kEach) {
    float h[kEach], weight[kEach];
    load_run(row + column * rows.stride, rows.stride, rows.size - column, h);
    load_weight(rows, column, weight);
    EK_UNROLL
    for (int i = 0; i < kEach; ++i) total = fmaf(h[i], weight[i], total);
  }
  return reduce_warp(total, Sum());
}

// partial [size] += slopes [kRows] x rows [kRows, size]. Each thread has its own columns.
template <typename T, int kRows>
__device__ void add_rows(const HeadRows& rows, const T* hidden, const int64_t (&offsets)[kRows],
                         const float (&slopes)[kRows], float* partial) {
  constexpr int kEach = kPerVector<T>;
  for (int64_t column = threadIdx.x * kEach; column < rows.size; column += kThreads * kEach) {
    float total[kEach] = {};
    for (int r = 0; r < kRows; ++r) {
      if (!EK_BOUND(rtd_head_no_slope, slopes[r] != 0)) continue;
      float h[kEach];
      load_run(hidden + offsets[r] + column * rows.stride, rows.stride, rows.size - column, h);
      EK_UNROLL
      for (int i = 0; i < kEach; ++i) total[i] = fmaf(h[i], slopes[r], total[i]);
    }
    EK_UNROLL
    for (int i = 0; i < kEach; ++i) {
      if (EK_BOUND(rtd_head_share_end, column + i < rows.size)) partial[column + i] += total[i];
    }
  }
}

// Rows of any layout and width. With kIsForward: logits, losses and their sums from hidden states. Without:
// the gradients of the parameters from logits and upstream gradient.
template <typename T, bool kIsForward>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    scan_any(const __grid_constant__ TokenBatch batch, const __grid_constant__ HeadRows rows,
             const UpstreamScale scale, const __grid_constant__ HeadOutputs out,
             const __grid_constant__ TokenTotals totals) {
  constexpr int kRows = 8, kBlockRows = kWarps * kRows;
  EK_SHARED(slopes, float[kBlockRows]);
  EK_SHARED(offsets, int64_t[kBlockRows]);
  let_second_begin();
  const T* const hidden = static_cast<const T*>(batch.tensors[kHidden].data);
  float* const partial =
      out.weight_partials == nullptr ? nullptr : out.weight_partials + blockIdx.x * rows.size;
  if (partial != nullptr) {
    // Each thread clears the columns that it adds to, so no barrier is needed.
    constexpr int kEach = kPerVector<T>;
    for (int64_t column = threadIdx.x * kEach; column < rows.size; column += kThreads * kEach) {
      for (int64_t c = column; c < min(column + kEach, rows.size); ++c) partial[c] = 0;
    }
  }
  const float bias = kIsForward ? bias_of(rows) : 0, factor = kIsForward ? 0 : factor_of(scale);
  TokenSums sums;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockRows; first < batch.count;
       first += static_cast<int64_t>(gridDim.x) * kBlockRows) {
    const Group<kRows> group(batch, first + warp() * kRows);
    float slope = 0;
    if constexpr (kIsForward) {
      float x = 0;
      for (int r = 0; r < kRows; ++r) {
        const int64_t offset = __shfl_sync(kAllLanes, group.offsets.of[kHidden], r);
        const float total = dot(rows, hidden + offset);
        if (lane() == r) x = total;
      }
      slope = score(group, x + bias, out, sums);
    } else {
      slope = upstream_slope(batch, group, factor);
      sums.gradient += slope;
    }
    if (lane() < kRows) {
      slopes[warp() * kRows + lane()] = slope;
      offsets[warp() * kRows + lane()] = group.offsets.of[kHidden];
    }
    EK_BARRIER(rtd_head_slopes_written);
    if (partial != nullptr) add_rows(rows, hidden, offsets, slopes, partial);
    EK_BARRIER(token_sizes_slopes_read);
  }
  store_sums<kWarps>(sums, totals);
}

// ---- adding up the blocks ---------------------------------------------------------------------------------

constexpr int kJoinWarps = 16;

// Each block adds up kWarp columns of weight_partials; the first block also adds up the sums over the tokens.
__global__ void __launch_bounds__(kJoinWarps* kWarp)
    join(const __grid_constant__ HeadOutputs out, const __grid_constant__ TokenTotals totals, int64_t size) {
  EK_SHARED(joined, double[kJoinWarps][kWarp]);
  EK_WAIT_FOR_FIRST(rtd_head_wait);
  if (blockIdx.x == 0) join_sums(totals);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane();
  const bool is_inside = EK_BOUND(rtd_head_join_end, column < size);
  double total = 0;
  if (is_inside && out.weight_partials != nullptr) {
    for (int64_t i = warp(); i < totals.blocks; i += kJoinWarps)
      total += out.weight_partials[i * size + column];
  }
  joined[warp()][lane()] = total;
  EK_BARRIER(rtd_head_columns_written);
  if (warp() != 0 || !is_inside) return;
  for (int w = 1; w < kJoinWarps; ++w) total += joined[w][lane()];
  store_number(out.weight_gradient, column, total);
}

// ---- backward ---------------------------------------------------------------------------------------------

template <typename T>
__device__ void store_columns(T* data, bool is_vectored, int64_t available, const float (&x)[kPerVector<T>]) {
  if (is_vectored) return store_vector(data, x);
  EK_UNROLL
  for (int i = 0; i < kPerVector<T>; ++i) {
    if (EK_BOUND(rtd_head_gradient_end, i < available)) convert(x[i], data[i]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    backward(const __grid_constant__ TokenBatch batch, const __grid_constant__ HeadRows rows,
             const UpstreamScale scale, T* gradient, const __grid_constant__ ScaledSums sums) {
  constexpr int kEach = kPerVector<T>, kRows = 8;
  const float factor = factor_of(scale);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps + warp()) * kRows;
  if (first < batch.count) {
    const Group<kRows> group(batch, first);
    const float own = upstream_slope(batch, group, factor);
    float slopes[kRows];
    EK_UNROLL
    for (int r = 0; r < kRows; ++r) slopes[r] = __shfl_sync(kAllLanes, own, r);
    const bool is_vectored = EK_BOUND(rtd_head_whole_vectors, rows.size % kEach == 0);
    for (int64_t column = lane() * kEach; column < rows.size; column += kWarp * kEach) {
      float weight[kEach];
      load_weight(rows, column, weight);
      EK_UNROLL
      for (int r = 0; r < kRows; ++r) {
        if (!EK_BOUND(rtd_head_gradient_rows_end, first + r < batch.count)) continue;
        float x[kEach];
        EK_UNROLL
        for (int i = 0; i < kEach; ++i) x[i] = slopes[r] * weight[i];
        store_columns(gradient + (first + r) * rows.size + column, is_vectored, rows.size - column, x);
      }
    }
  }
  if (blockIdx.x != 0 || sums.weight == nullptr) return;
  for (int64_t column = threadIdx.x; column < rows.size; column += kThreads) {
    store_number(sums.weight_gradient, column, sums.weight[column] * factor);
  }
  if (threadIdx.x == 0) store_number(sums.bias_gradient, 0, *sums.bias * factor);
}

// ---- launches ---------------------------------------------------------------------------------------------

template <typename T>
void launch_forward(const TokenBatch& batch, const HeadRows& rows, const HeadOutputs& out,
                    const TokenTotals& totals, cudaStream_t stream) {
  const Launch plain = {totals.blocks, kThreads, stream, 0, 1, Overlap::kFirst};
  if (!rows.is_vectored || rows.size > kMaxUnits * kUnit) {
    return launch(scan_any<T, true>, plain, batch, rows, UpstreamScale{}, out, totals);
  }
  constexpr decltype(&forward_held<T, 1>) kKernels[kMaxUnits] = {forward_held<T, 1>, forward_held<T, 2>,
                                                                 forward_held<T, 3>, forward_held<T, 4>};
  const int64_t units = rows.size <= kUnit ? 1 : (rows.size + kUnit - 1) / kUnit;
  const int64_t shared_bytes = kWarps * units * kUnit * static_cast<int64_t>(sizeof(float));
  launch(kKernels[units - 1], {totals.blocks, kThreads, stream, shared_bytes, 1, Overlap::kFirst}, batch,
         rows, out, totals);
}

void launch_join(const HeadOutputs& out, const TokenTotals& totals, int64_t size, cudaStream_t stream) {
  const int64_t blocks = size == 0 ? 1 : (size + kWarp - 1) / kWarp;
  launch(join, {blocks, kJoinWarps * kWarp, stream, 0, 1, Overlap::kSecond}, out, totals, size);
}

// Calls body(T()) with a floating-point type.
template <typename Body>
void for_type(Number type, const Body& body) {
  if (type == Number::kFloat32) return body(float());
  if (type == Number::kBFloat16) return body(BFloat16());
  body(Float16());
}

}  // namespace

// Depends only on the number of rows, so the summation order never changes.
int head_blocks(int64_t count) {
  const int64_t blocks = (count + kWarp - 1) / kWarp;
  return static_cast<int>(blocks == 0 ? 1 : blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

void head_forward(const TokenBatch& batch, const HeadRows& rows, const HeadOutputs& out,
                  const TokenTotals& totals, cudaStream_t stream) {
  for_type(batch.tensors[kHidden].type,
           [&](auto zero) { launch_forward<decltype(zero)>(batch, rows, out, totals, stream); });
  launch_join(out, totals, rows.size, stream);
}

void head_backward(const TokenBatch& batch, const HeadRows& rows, const UpstreamScale& scale,
                   const Parameters& gradient, const ScaledSums& sums, cudaStream_t stream) {
  const int64_t blocks = (batch.count + kThreads / 4 - 1) / (kThreads / 4);
  for_type(gradient.type, [&](auto zero) {
    using T = decltype(zero);
    launch(backward<T>, {blocks == 0 ? 1 : blocks, kThreads, stream}, batch, rows, scale,
           static_cast<T*>(gradient.data), sums);
  });
}

void head_parameter_gradients(const TokenBatch& batch, const HeadRows& rows, const UpstreamScale& scale,
                              const HeadOutputs& out, const TokenTotals& totals, cudaStream_t stream) {
  for_type(batch.tensors[kHidden].type, [&](auto zero) {
    launch(scan_any<decltype(zero), false>, {totals.blocks, kThreads, stream, 0, 1, Overlap::kFirst}, batch,
           rows, scale, out, totals);
  });
  launch_join(out, totals, rows.size, stream);
}

}  // namespace electra_kernels
