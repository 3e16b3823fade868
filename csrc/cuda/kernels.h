// What the host functions (*_ops.cpp, with torch) call in the kernels (*.cu, without): the twin of
// csrc/cpu/kernels.h.
//
// To add an op: its arguments as plain structs and a function that launches it here; the code in
// csrc/cuda/IDEA.cu, in an anonymous namespace but for that function; the host function in
// csrc/cuda/IDEA_ops.cpp with STABLE_TORCH_LIBRARY_FRAGMENT and EK_LIBRARY_IMPL (host.h), whose schema is
// that of the public op; the op's name in electra_kernels/compiled.py. setup.py and tests/cuda_on_cpu find
// the files.

#pragma once

#include <stdint.h>

#if defined(EK_FIBERS)
#include "fibers.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace electra_kernels {

// Dynamic shared memory that every kernel may have without asking for more: of 48 KB, 1 KB is for what a
// kernel declares itself.
constexpr int64_t kSharedBytes = 47 << 10;

// How the elements of a tensor lie, in the order of its elements: dimensions outermost first, those that
// continue each other merged, strides in elements. At least one dimension.
constexpr int kMaxDimensions = 8;
struct Layout {
  int dimensions;
  int64_t sizes[kMaxDimensions];
  int64_t strides[kMaxDimensions];
};

// Arrays without a stride are contiguous.
struct MaskingBatch {
  const int64_t* input_ids;
  int64_t input_row_stride, input_stride;
  const uint8_t* maskable;
  int64_t maskable_row_stride, maskable_stride;
  const double* uniforms;  // [batch, slots, 2]
  uint32_t* words;         // [batch, masking_words(length)]; null if these fit into shared memory
  int64_t batch;
  int length;
  int slots;
  int64_t* masked_ids;  // [batch, length]
  int64_t* positions;   // [batch, slots]
  int64_t* targets;     // [batch, slots]
};

struct MaskingOptions {
  int64_t mask_token_id;
  int64_t vocab_size;
  double probability;
  double mask_fraction;
  double random_fraction;
};

// Words of scratch memory of a row: a bit per token.
constexpr int64_t masking_words(int64_t length) { return (length + 31) / 32; }
constexpr int64_t kMaskingWordsInShared = kSharedBytes / sizeof(uint32_t);

void mask_rows(const MaskingBatch&, const MaskingOptions&, cudaStream_t);

struct ReplacementBatch {
  const int64_t* input_ids;
  int64_t row_stride, stride;
  const int64_t* positions;  // [batch, slots]
  const int64_t* tokens;     // [batch, slots]
  int64_t batch, length, slots;
  int64_t* ids;       // [batch, length]
  bool* is_replaced;  // [batch, length]
};

void replace_rows(const ReplacementBatch&, cudaStream_t);

// ---- rows of logits ---------------------------------------------------------------------------------------

enum class Type { kFloat32, kBFloat16, kFloat16 };

// [count, size], each element `stride` elements from the next.
struct LogitRows {
  void* data;
  Type type;
  Layout layout;  // of the rows
  int64_t stride;
  int64_t count;
  int size;
  const float* bias;  // [size], added to every row, or null
};

// Columns that one warp visits. A row begins anywhere in its first 16 bytes, which hold up to 8 elements.
constexpr int kTile = 1024;
constexpr int tiles_of(int size) { return (size + 7 + kTile - 1) / kTile; }

// Floats of scratch memory that a visit to the rows needs; none where their tiles' sums stay on the chip.
int64_t visit_scratch(const LogitRows&);

// The log-sum-exp of a row as maximum + log_total. In one number, an offset that all logits of the row share
// would cost the digits of log_total.
struct LogSumExp {
  float maximum, log_total;
};

// Per row.
struct SamplingBatch {
  const int64_t* banned;  // or null; negative bans nothing
  bool bans;              // if not, `banned` says by a negative number alone where nothing is drawn
  bool skips;             // what is negative draws nothing
  const double* uniforms;
  float inverse_temperature;
  float* logsumexp;            // or null
  LogSumExp* logsumexp_parts;  // null with it
  int64_t* tokens;
};
void sample_rows(const LogitRows&, const SamplingBatch&, float* scratch, cudaStream_t);

// Of rows whose log-sum-exp is known: (softmax(x) - one_hot(target)) upstream / denominator, which may
// overwrite the logits.
struct GradientBatch {
  const LogSumExp* logsumexp;
  const int64_t* targets;  // or null: the soft-max alone
  int64_t ignore_index;    // such a row's gradient is zero
  const float* upstream;   // one number or one per row; null: 1
  bool is_per_row;
  const double* denominator;  // or null: 1
};
void gradient_rows(const LogitRows&, const GradientBatch&, const LogitRows& gradient, cudaStream_t);

// Per row, all of them written.
struct CrossEntropyBatch {
  const int64_t* targets;
  int64_t ignore_index;
  const double* uniforms;
  float inverse_temperature;
  bool ban_original;
  bool overwrites;     // the logits, by their gradient
  const float* scale;  // one number that multiplies it, or null
  float* losses;
  int64_t* tokens;
  bool* is_top1;
  LogSumExp* logsumexp;
};
void cross_entropy_rows(const LogitRows&, const CrossEntropyBatch&, float* scratch, cudaStream_t);

// Over the rows that are not ignored. One block: N numbers are few beside N rows, and their order is fixed.
struct LossReduction {
  const float* losses;  // [count]
  const int64_t* targets;
  int64_t count;
  int64_t ignore_index;
  bool is_mean;
  const double* normalizer;  // one number or null
  float* loss;               // null: the losses are not read
  double* denominator;
  float* reciprocal;  // of the denominator
};
void reduce_losses(const LossReduction&, cudaStream_t);

// One factor, for which 1 ends the kernel at once, or one per row.
void scale_rows(const LogitRows& gradient, const float* factors, bool is_per_row, cudaStream_t);

// ---- losses per token: several tensors of one shape, whatever their types and strides ---------------------

enum class Number { kFloat32, kBFloat16, kFloat16, kFloat64, kBool, kUint8, kInt32, kInt64 };

struct Numbers {
  const void* data;  // null: a tensor that is not given, every number is 1
  Number type;
  int64_t strides[kMaxDimensions];  // in numbers
};

// The tensors that may be known of the tokens of a batch. Of hidden states, the first number of each.
enum Role { kLabels, kMask, kPositiveWeight, kLogits, kUpstream, kHidden, kRoles };

// All of one shape: dimensions outermost first, those that continue each other in all of the tensors are one.
struct TokenBatch {
  int64_t count;
  int dimensions;  // at least one
  int64_t sizes[kMaxDimensions];
  Numbers tensors[kRoles];
  float label_smoothing;
};

// What the upstream gradient of each token (kUpstream) is multiplied with: the scalar over the denominator.
struct UpstreamScale {
  const float* scalar;  // null: 1
  const double* denominator;
};

// A number of any of the types of parameters.
struct Parameters {
  void* data;
  Number type;
};

// Sums over the tokens of each block, [kTokenSums, blocks], and where their totals go; null: nowhere.
constexpr int kTokenSums = 7;
struct TokenTotals {
  double* partials;
  int blocks;
  bool is_mean;
  const double* normalizer;
  float* loss;
  int64_t* counts;  // [4]
  double* denominator;
  Parameters bias_gradient;
};

int bce_blocks(int64_t count);
// losses [count] or null
void bce_forward(const TokenBatch&, float* losses, const TokenTotals&, cudaStream_t);
// gradient [count] of the type of the logits
void bce_backward(const TokenBatch&, const UpstreamScale&, void* gradient, cudaStream_t);

// Hidden states [count, size], which begin where kHidden says, and the layer that they go through.
struct HeadRows {
  int64_t size;
  int64_t stride;    // of their numbers
  bool is_vectored;  // they are whole vectors of 16 bytes
  Numbers weight;    // [size]
  Numbers bias;      // [] or null
};

struct HeadOutputs {
  float* logits;  // [count]
  float* losses;  // [count] or null
  float*
      shares;  // [blocks, size], each block's of the gradient of the weight; null: no gradient of parameters
  Parameters weight_gradient;  // [size], zeros if there are no shares
};

// Gradients of the parameters that lack their scale, and where the scaled ones go.
struct ScaledSums {
  const float* weight;  // [size]; null: there are none
  const float* bias;
  Parameters weight_gradient, bias_gradient;
};

int head_blocks(int64_t count);
void head_forward(const TokenBatch&, const HeadRows&, const HeadOutputs&, const TokenTotals&, cudaStream_t);
// gradient [count, size]
void head_backward(const TokenBatch&, const HeadRows&, const UpstreamScale&, const Parameters& gradient,
                   const ScaledSums&, cudaStream_t);
// Of the logits that the forward has left, for a loss per token.
void head_parameter_gradients(const TokenBatch&, const HeadRows&, const UpstreamScale&, const HeadOutputs&,
                              const TokenTotals&, cudaStream_t);

}  // namespace electra_kernels
