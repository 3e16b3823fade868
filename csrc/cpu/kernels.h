// The interface between host functions (*_ops.cpp, compiled once, with torch) and kernels (compiled once per
// instruction-set level, without torch): plain structs, and a table of function pointers for each idea.
//
// To add a kernel for an idea:
// - its arguments and its table here, its declaration in EK_DECLARE_LEVEL below;
// - the code in csrc/cpu/IDEA.cpp, all in an anonymous namespace except `const IdeaKernels EK_LEVEL::idea`;
// - the table in `Level` (host.h) and in levels.cpp;
// - the host function in csrc/cpu/IDEA_ops.cpp with STABLE_TORCH_LIBRARY_IMPL; its last argument is `int
// level`;
// - the op's schema in electra_kernels/backends/table.py, which declares the ops of this library.
// The build (csrc/build.py) finds the files.

#pragma once

#include "../common.h"

namespace electra_kernels {

// ---- rows of logits ---------------------------------------------------------------------------------------

// One row of logits: `size` elements of one Type, `stride` elements apart, plus a bias if there is one.
struct Row {
  const void* logits;
  int64_t stride;
  int64_t size;
  const float* bias;  // [size] or null
};

// How a token is drawn from a row. A negative `banned` bans nothing.
struct Draw {
  double uniform;
  int64_t banned;
  float temperature;
};

struct RowStatistics {
  float maximum;       // the largest raw logit; in a bad row its NaN or infinity
  double log_sum;      // logarithm of the sum of exp(x - maximum), at temperature 1; 0 in a bad row
  float target_logit;  // set by cross-entropy only
  int64_t token;       // -1: nothing was drawn
  bool is_bad;         // the row has a NaN, +inf or no finite logit
};

// Columns of a tile, and the floats of scratch memory that a row of `size` needs at any level, 64-byte
// aligned: the row itself, and the sums of its tiles.
constexpr int64_t kTile = 512;
constexpr int64_t tiles_of(int64_t size) { return (size + kTile - 1) / kTile; }
constexpr int64_t scratch_floats(int64_t size) { return tiles_of(size) * (kTile + 3) + 3 * 16; }

struct SamplingKernels {
  void (*sample[kTypes])(const Row&, const Draw&, float* scratch, RowStatistics&);
  // gradient[i * gradient_stride] = softmax(row)[i] * scale
  void (*soft_max[kTypes])(const Row&, const LogSumExp&, float scale, void* gradient,
                           int64_t gradient_stride);
};

// Memory for the gradient of a row. It may be the memory of the logits. With the log-sum-exp l it is
//     (softmax - one_hot(target)) scale + softmax (2 scale z_loss l + logsumexp_scale)
struct GradientRow {
  void* data;  // [size], `stride` elements apart; null: no gradient
  int64_t stride;
  float scale;  // of the loss's gradient
  float z_loss;
  float logsumexp_scale;  // of the gradient of l itself

  // The factor of softmax is this plus `scale`. Without a z-loss, an infinite log-sum-exp has no effect.
  double extra_scale(double logsumexp) const {
    return (z_loss == 0 ? 0 : scale * (2 * z_loss * logsumexp)) + logsumexp_scale;
  }
};

// A target outside of the row belongs to another slice of the vocabulary: it has no one-hot here, and bans
// nothing.
struct MlmHeadKernels {
  // Statistics, draw and gradient in one scan of the row.
  void (*cross_entropy[kTypes])(const Row&, const Draw&, int64_t target, const GradientRow&, float* scratch,
                                RowStatistics&);
  void (*gradient[kTypes])(const Row&, int64_t target, const LogSumExp&, const GradientRow&);
  // Multiplies a row by a factor. A factor of 0 writes zeros, also over NaN and infinity.
  void (*scale[kTypes])(void* row, int64_t stride, int64_t size, float factor);
};

struct VocabParallelKernels {
  void (*sums[kTypes])(const Row&, const Draw&, int64_t target, float* scratch, SliceSums&);
};

// ---- losses per token -------------------------------------------------------------------------------------

// The numbers of a tensor of any strides, in the order of its elements. Dimensions come outermost first,
// strides count numbers. There are 1 to 64 dimensions.
struct Elements {
  const void* data;  // null: the tensor is not given, every number is 1
  Number type;
  int dimensions;
  const int64_t* sizes;    // [dimensions]
  const int64_t* strides;  // [dimensions]
};

// The inputs of the binary cross-entropy besides the logits.
struct Terms {
  Elements labels, mask, positive_weight;
  float label_smoothing;
};

// The upstream gradient of a token is its number times the factor.
struct Upstream {
  Elements numbers;
  float factor;
};

// Sums over the counted tokens, those whose mask is set and whose label is not ignored.
struct TokenSums {
  double loss;
  double weight;    // sum of the mask weights
  double gradient;  // sum of the gradients of the logits; set by the linear head only
  int64_t true_positives, false_positives, false_negatives, true_negatives;
  bool has_bad_label;
};

// Every function handles tokens [first, first + count); its outputs begin with token `first`.
struct BceKernels {
  void (*as_floats)(const Elements&, int64_t first, int64_t count, float* out /* [count] */);
  // losses [count] or null
  void (*forward)(const Elements& logits, const Terms&, int64_t first, int64_t count, float* losses,
                  TokenSums&);
  // gradient [count]
  void (*backward[kTypes])(const Elements& logits, const Terms&, const Upstream&, int64_t first,
                           int64_t count, void* gradient);
};

// Hidden states of tokens [first, first + count), with count up to kTile.
struct HiddenRows {
  const void* const* rows;  // [count] pointers to rows [size], whose elements are `stride` apart
  int64_t stride;
  int64_t size;
  int64_t first;
  int64_t count;
};

// Rows that are handled together, and the floats of scratch memory that they need.
constexpr int64_t kRowGroup = 16;
constexpr int64_t head_scratch_floats(int64_t size) { return kRowGroup * size; }

struct RtdHeadKernels {
  // weight [size], logits [count], losses [count] or null. The gradient of the weight, without the division
  // by the denominator, is added to weight_gradient [size], which may be null.
  void (*forward[kTypes])(const HiddenRows&, const float* weight, float bias, const Terms&, float* scratch,
                          float* logits, float* losses, float* weight_gradient, TokenSums&);
  // gradient [count, size]
  void (*backward[kTypes])(const HiddenRows&, const float* weight, const float* logits, const Terms&,
                           const Upstream&, float* scratch, void* gradient, float* weight_gradient,
                           TokenSums&);
  // out [size] = numbers [size] * factor
  void (*scaled[kTypes])(const float* numbers, float factor, int64_t size, void* out);
};

// ---- masking ----------------------------------------------------------------------------------------------

// One row of a batch to mask. Arrays without a stride are contiguous.
struct MaskingRow {
  const int64_t* input_ids;  // [length]
  int64_t input_stride;
  const uint8_t* maskable;  // [length]
  int64_t maskable_stride;
  int64_t length;
  const double* uniforms;  // [slots, 2]
  int64_t slots;
  int64_t* masked_ids;  // [length]
  int64_t* positions;   // [slots]
  int64_t* targets;     // [slots]
};

// Numbers of scratch memory for a row: its maskable positions, and two numbers per slot in whole vectors.
constexpr int64_t masking_scratch(int64_t length, int64_t slots) { return length + 1 + 2 * slots + 16; }

struct MaskingKernels {
  // Returns false if an id is not in the vocabulary.
  bool (*mask_row)(const MaskingRow&, const MaskingOptions&, int32_t* scratch);
};

}  // namespace electra_kernels

// Declares the tables of every level.
#define EK_DECLARE_LEVEL(level)                     \
  namespace electra_kernels::level {                \
  extern const SamplingKernels sampling;            \
  extern const MlmHeadKernels mlm_head;             \
  extern const VocabParallelKernels vocab_parallel; \
  extern const BceKernels bce;                      \
  extern const RtdHeadKernels rtd_head;             \
  extern const MaskingKernels masking;              \
  }
EK_FOR_EACH_LEVEL(EK_DECLARE_LEVEL)
