// The interface between host functions (*_ops.cpp, with torch) and kernels (*.cu, without): plain structs,
// and a function for each launch. It is the twin of csrc/cpu/kernels.h.
//
// To add an op:
// - its arguments and the function that launches it here;
// - the code in csrc/cuda/IDEA.cu, all in an anonymous namespace except that function;
// - the host function in csrc/cuda/IDEA_ops.cpp with EK_LIBRARY_IMPL (host.h);
// - the op's schema in electra_kernels/backends/table.py, which declares the ops of this library.
// The build (csrc/build.py) and tests/cuda_on_cpu find the files.

#pragma once

#include "../common.h"

#if defined(EK_FIBERS)
#include "fibers.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace electra_kernels {

// Dynamic shared memory that a kernel may have without asking for more. A block has 48 KB, 1 KB of which is
// left for the shared variables that the kernel declares.
constexpr int64_t kSharedBytes = 47 << 10;

// Sizes and strides of a tensor. Dimensions come outermost first, those that continue each other are merged,
// strides count elements. There is at least one dimension.
constexpr int kMaxDimensions = 8;
struct Layout {
  int dimensions;
  int64_t sizes[kMaxDimensions];
  int64_t strides[kMaxDimensions];
};

// ---- masking and replacing --------------------------------------------------------------------------------

// A batch to mask. Arrays without a stride are contiguous.
struct MaskingBatch {
  const int64_t* input_ids;  // [batch, length]
  int64_t input_row_stride, input_stride;
  const uint8_t* maskable;  // [batch, length]
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

// Words of scratch memory of a row, with one bit per token.
constexpr int64_t masking_words(int64_t length) { return (length + 31) / 32; }
constexpr int64_t kMaskingWordsInShared = kSharedBytes / sizeof(uint32_t);

void mask_rows(const MaskingBatch&, const MaskingOptions&, cudaStream_t);

struct ReplacementBatch {
  const int64_t* input_ids;  // [batch, length]
  int64_t row_stride, stride;
  const int64_t* positions;  // [batch, slots]
  const int64_t* tokens;     // [batch, slots]; negative: the original stays
  int64_t batch, length, slots;
  int64_t* ids;       // [batch, length]
  bool* is_replaced;  // [batch, length]
};

void replace_rows(const ReplacementBatch&, cudaStream_t);

// ---- rows of logits ---------------------------------------------------------------------------------------

struct LogitRows {
  void* data;  // [count, size], elements of a row `stride` elements apart
  Type type;
  Layout layout;  // layout of the rows
  int64_t stride;
  int64_t count;
  int size;
};

// Columns of a tile, which one warp scans. Tiles begin at 16-byte boundaries, up to 7 elements before the
// row.
constexpr int kTile = 1024;
constexpr int tiles_of(int size) { return (size + 7 + kTile - 1) / kTile; }

// Floats of scratch memory that a scan of the rows needs; 0 if the sums of the tiles fit into shared memory.
int64_t scan_scratch(const LogitRows&);

struct SamplingBatch {
  const int64_t* banned;   // [count] or null
  bool bans;               // a number in `banned` that is not negative bans that token
  bool skips;              // a negative number in `banned` draws nothing
  const double* uniforms;  // [count]
  float inverse_temperature;
  float* logsumexp;            // [count] or null
  LogSumExp* logsumexp_parts;  // [count]; null if logsumexp is
  int64_t* tokens;             // [count]
};
void sample_rows(const LogitRows&, const SamplingBatch&, float* scratch, cudaStream_t);

// The sum of the losses of all rows, divided by the denominator: 1, the normalizer, or for a mean without one
// the number of rows that are not ignored. The last row to finish adds them up, in their order.
struct LossSum {
  unsigned* finished;  // [] memory for the number of rows that have finished; null: there is no sum
  bool is_mean;
  const double* normalizer;  // [] or null
  double* denominator;       // []
  float* reciprocal;         // [], of the denominator
  float* one;                // [], becomes 1
  float* loss;               // []
};

// Every row's outputs are written, also those of ignored rows.
struct CrossEntropyBatch {
  const int64_t* targets;  // [count]
  int64_t ignore_index;
  const double* uniforms;  // [count]
  float z_loss;
  float inverse_temperature;
  bool ban_original;
  bool overwrites;             // the gradient overwrites the logits
  const float* scale;          // [] factor of the gradient, or null
  float* losses;               // [count]
  int64_t* tokens;             // [count]
  bool* is_top1;               // [count]
  float* logsumexp;            // [count]
  LogSumExp* logsumexp_parts;  // [count]
  LossSum sum;
};
void cross_entropy_rows(const LogitRows&, const CrossEntropyBatch&, float* scratch, cudaStream_t);
// The LossSum of rows whose losses are there already. It reads targets, ignore_index and losses.
void sum_losses(const CrossEntropyBatch&, int64_t count, cudaStream_t);

// For a slice of a vocabulary that is spread over ranks. Targets outside of the row are in other slices.
struct SliceBatch {
  const int64_t* targets;  // [count]
  int64_t ignore_index;    // rows with this target get zeros
  float inverse_temperature;
  bool ban_original;
  SliceSums* sums;  // [count]
};
void sum_slices(const LogitRows&, const SliceBatch&, float* scratch, cudaStream_t);

// For rows whose log-sum-exp l is known: with s = upstream / denominator,
//     softmax(x) (s (1 + 2 z_loss l) + logsumexp_upstream) - one_hot(target) s
// It may overwrite the logits. Without targets it is softmax(x) s, the gradient that sampling needs.
struct GradientBatch {
  const LogSumExp* logsumexp_parts;  // [count]
  const int64_t* targets;            // [count] or null
  int64_t ignore_index;              // rows with this target have gradient 0
  const float* upstream;             // [count] or []; null: 1
  bool is_per_row;
  const double* denominator;  // [] or null: 1
  float z_loss;
  const float* logsumexp_upstream;  // [count] or null: 0
};
void gradient_rows(const LogitRows&, const GradientBatch&, const LogitRows& gradient, cudaStream_t);

// factors [count] or []. A single factor of 1 ends the kernel at once.
void scale_rows(const LogitRows& gradient, const float* factors, bool is_per_row, cudaStream_t);

// ---- losses per token: several tensors of one shape, of any types and strides -----------------------------

struct Numbers {
  const void* data;  // null: a tensor that is not given, every number is 1
  Number type;
  int64_t strides[kMaxDimensions];  // in numbers
};

// The tensors that a token may have a number in. kHidden stands for the first number of the token's hidden
// state.
enum Role { kLabels, kMask, kPositiveWeight, kLogits, kUpstream, kHidden, kRoles };

// The tensors have one shape. Dimensions come outermost first; those that continue each other in all tensors
// are merged.
struct TokenBatch {
  int64_t count;
  int dimensions;  // at least one
  int64_t sizes[kMaxDimensions];
  Numbers tensors[kRoles];
  float label_smoothing;
};

// The factor of each token's upstream gradient (kUpstream): scalar / denominator.
struct UpstreamScale {
  const float* scalar;        // [] or null: 1
  const double* denominator;  // []
};

// Memory for parameters, or for their gradients, of a floating-point type.
struct Parameters {
  void* data;
  Number type;
};

// Sums over the tokens of each block, and the memory for their totals; null: the total is not written.
constexpr int kTokenSums = 7;
struct TokenTotals {
  double* partials;  // [kTokenSums, blocks]
  int blocks;
  bool is_mean;
  const double* normalizer;  // [] or null
  float* loss;               // []
  int64_t* counts;           // [4]
  double* denominator;       // []
  Parameters bias_gradient;  // []
};

int bce_blocks(int64_t count);
// losses [count] or null.
void bce_forward(const TokenBatch&, float* losses, const TokenTotals&, cudaStream_t);
// gradient [count], of the type of the logits.
void bce_backward(const TokenBatch&, const UpstreamScale&, void* gradient, cudaStream_t);

// Hidden states [count, size], each of which begins where kHidden says, and the parameters of the linear
// layer.
struct HeadRows {
  int64_t size;
  int64_t stride;    // elements from one number of a row to the next
  bool is_vectored;  // rows are whole, aligned vectors of 16 bytes
  Numbers weight;    // [size]
  Numbers bias;      // [] or null
};

struct HeadOutputs {
  float* logits;  // [count]
  float* losses;  // [count] or null
  // [blocks, size], each block's part of the gradient of the weight; null: no gradients of the parameters are
  // computed.
  float* weight_partials;
  Parameters weight_gradient;  // [size], zeros without weight_partials
};

// Gradients of the parameters without their scale, and the memory for the scaled ones.
struct ScaledSums {
  const float* weight;         // [size]; null: there are none
  const float* bias;           // []
  Parameters weight_gradient;  // [size]
  Parameters bias_gradient;    // []
};

int head_blocks(int64_t count);
void head_forward(const TokenBatch&, const HeadRows&, const HeadOutputs&, const TokenTotals&, cudaStream_t);
// gradient [count, size].
void head_backward(const TokenBatch&, const HeadRows&, const UpstreamScale&, const Parameters& gradient,
                   const ScaledSums&, cudaStream_t);
// For a loss per token: the gradients of the parameters, from the logits that the forward has left.
void head_parameter_gradients(const TokenBatch&, const HeadRows&, const UpstreamScale&, const HeadOutputs&,
                              const TokenTotals&, cudaStream_t);

}  // namespace electra_kernels
