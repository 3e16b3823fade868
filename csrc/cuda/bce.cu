// Masked binary cross-entropy on logits: loss, denominator and confusion counts in one pass, the gradient in
// another.
//
// Each pass reads a token's logit, label, mask and positive weight once, with their own dtypes and strides,
// where a chain of torch's operations would write and read a tensor for each step. Tokens are independent
// except for sums, which leave a block as kTokenSums numbers; a second kernel, which begins meanwhile, adds
// up the blocks. A thread has kRun adjacent tokens, so that contiguous numbers are accessed 16 bytes at a
// time.

#include "tokens.h"

namespace electra_kernels {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kBlockTokens = kThreads * kRun;
constexpr int64_t kMaxBlocks = 1024;

__device__ int64_t first_token() {
  return (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kRun;
}

__device__ Token token_of(const TokenBatch& batch, const Run& run, int i) {
  return token_of(batch, run.of[kLabels][i], run.of[kMask][i], run.of[kPositiveWeight][i]);
}

// Writes numbers [first, first + kRun) of data [count], which is contiguous.
template <typename T>
__device__ void store_run(T* data, int64_t first, int64_t count, const float (&x)[kRun]) {
  constexpr int kEach = kPerVector<T>;
  if (EK_BOUND(bce_stored_run_end, first + kRun <= count)) {
    EK_UNROLL
    for (int i = 0; i < kRun / kEach; ++i) {
      float part[kEach];
      EK_UNROLL
      for (int j = 0; j < kEach; ++j) part[j] = x[i * kEach + j];
      store_vector(data + first + i * kEach, part);
    }
    return;
  }
  EK_UNROLL
  for (int i = 0; i < kRun; ++i) {
    if (EK_BOUND(bce_stored_number_end, first + i < count)) convert(x[i], data[first + i]);
  }
}

__global__ void __launch_bounds__(kThreads) forward(const __grid_constant__ TokenBatch batch, float* losses,
                                                    const __grid_constant__ TokenTotals totals) {
  let_second_begin();
  TokenSums sums;
  const int64_t step = gridDim.x * kBlockTokens;
  for (int64_t first = first_token(); first < batch.count; first += step) {
    Run run(batch, first);
    float (&x)[kRun] = run.of[kLogits];
    float loss = 0;
    EK_UNROLL
    for (int i = 0; i < kRun; ++i) {
      const Token token = token_of(batch, run, i);
      count(token, x[i], sums);
      x[i] = token_loss(token, x[i], decay_of(x[i]));
      loss += x[i];
    }
    sums.loss += loss;
    if (losses != nullptr) store_run(losses, first, batch.count, x);
  }
  store_sums<kThreads / kWarp>(sums, totals);
}

__global__ void __launch_bounds__(kTokenSums* kWarp) join(const __grid_constant__ TokenTotals totals) {
  EK_WAIT_FOR_FIRST(bce_wait);
  join_sums(totals);
}

__global__ void __launch_bounds__(kThreads)
    backward(const __grid_constant__ TokenBatch batch, const UpstreamScale scale, void* gradient) {
  const float factor = factor_of(scale);
  const int64_t step = gridDim.x * kBlockTokens;
  for (int64_t first = first_token(); first < batch.count; first += step) {
    Run run(batch, first);
    float (&x)[kRun] = run.of[kLogits];
    EK_UNROLL
    for (int i = 0; i < kRun; ++i) {
      x[i] = scaled_gradient(token_of(batch, run, i), x[i], run.of[kUpstream][i] * factor);
    }
    with_float_type(batch.tensors[kLogits].type, [&](auto zero) {
      store_run(static_cast<decltype(zero)*>(gradient), first, batch.count, x);
    });
  }
}

int64_t blocks_of(int64_t count) {
  const int64_t blocks = (count + kBlockTokens - 1) / kBlockTokens;
  return blocks < kMaxBlocks ? blocks : kMaxBlocks;
}

}  // namespace

// Depends only on the number of tokens, so the summation order never changes.
int bce_blocks(int64_t count) { return static_cast<int>(count == 0 ? 1 : blocks_of(count)); }

void bce_forward(const TokenBatch& batch, float* losses, const TokenTotals& totals, cudaStream_t stream) {
  launch(forward, {totals.blocks, kThreads, stream, 0, 1, Overlap::kFirst}, batch, losses, totals);
  launch(join, {1, kTokenSums * kWarp, stream, 0, 1, Overlap::kSecond}, totals);
}

void bce_backward(const TokenBatch& batch, const UpstreamScale& scale, void* gradient, cudaStream_t stream) {
  launch(backward, {blocks_of(batch.count), kThreads, stream}, batch, scale, gradient);
}

}  // namespace electra_kernels
