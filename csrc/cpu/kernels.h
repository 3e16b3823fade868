// What the host functions (*_ops.cpp, compiled once, with torch) call in the kernels (compiled once per
// level).
//
// To add a kernel for an idea: its arguments as plain structs and a table of function pointers here; the code
// in csrc/cpu/IDEA.cpp, in an anonymous namespace but for `const IdeaKernels EK_LEVEL::idea`; a line in
// `Level` (host.h); the host function in csrc/cpu/IDEA_ops.cpp with STABLE_TORCH_LIBRARY_FRAGMENT / _IMPL,
// whose schema is that of the public op with `int level` behind it; the op's name in
// electra_kernels/compiled.py. setup.py finds the files.

#pragma once

#include <stdint.h>

namespace electra_kernels {

// Index into a kernel's functions by dtype.
enum class Type { kFloat32, kBFloat16, kFloat16 };
constexpr int kTypes = 3;

// One row of logits: `size` elements of one Type, `stride` elements apart, plus a bias if there is one.
struct Row {
  const void* logits;
  int64_t stride;
  int64_t size;
  const float* bias;  // [size] or null
};

// What is drawn from a row. Banned: negative bans nothing.
struct Draw {
  double uniform;
  int64_t banned;
  float temperature;
};

// The log-sum-exp of a row as maximum + log_sum. In one number, an offset that all logits of the row share
// would cost the digits of log_sum.
struct LogSumExp {
  float maximum, log_sum;
};

struct RowStatistics {
  float maximum;       // of the raw logits; of a bad row its NaN or infinity
  double log_sum;      // logarithm of the sum of exp(x - maximum), at temperature 1; 0 in a bad row
  float target_logit;  // of cross-entropy alone
  int64_t token;       // -1: nothing was drawn
  bool is_bad;         // NaN, +inf or no finite logit
};

// Floats of scratch memory that a row of `size` needs at any level, 64-byte aligned: the row and its tiles'
// sums.
constexpr int64_t kTile = 512;
constexpr int64_t tiles(int64_t size) { return (size + kTile - 1) / kTile; }
constexpr int64_t scratch_floats(int64_t size) { return tiles(size) * (kTile + 3) + 3 * 16; }

struct SamplingKernels {
  void (*sample[kTypes])(const Row&, const Draw&, float* scratch, RowStatistics&);
  // gradient[i * gradient_stride] = softmax * scale
  void (*soft_max[kTypes])(const Row&, const LogSumExp&, float scale, void* gradient,
                           int64_t gradient_stride);
};

// Where the gradient of a row goes, which may be where its logits are: (softmax - one_hot(target)) scale.
struct GradientRow {
  void* data;  // null: no gradient
  int64_t stride;
  float scale;
};

struct MlmHeadKernels {
  // Statistics, draw and gradient in one visit.
  void (*cross_entropy[kTypes])(const Row&, const Draw&, int64_t target, const GradientRow&, float* scratch,
                                RowStatistics&);
  void (*gradient[kTypes])(const Row&, int64_t target, const LogSumExp&, const GradientRow&);
  // The row of a gradient times a factor; 0 gives zeros, whatever is there.
  void (*scale[kTypes])(void* row, int64_t stride, int64_t size, float factor);
};

// A tensor as its numbers one after the other, in the order of its elements, whatever its strides: dimensions
// outermost first, strides in numbers. At most 64 dimensions, at least one.
enum class Number { kFloat32, kBFloat16, kFloat16, kFloat64, kBool, kUint8, kInt32, kInt64 };
struct Elements {
  const void* data;  // null: a tensor that is not given, every number is 1
  Number type;
  int dimensions;
  const int64_t* sizes;
  const int64_t* strides;
};

// What is known of the tokens of a batch for their binary cross-entropy.
struct Terms {
  Elements labels, mask, positive_weight;
  float label_smoothing;
};

// Upstream gradient of each token: its number times a factor.
struct Upstream {
  Elements numbers;
  float factor;
};

// Over the tokens whose mask is set.
struct TokenSums {
  double loss;
  double weight;    // of the mask
  double gradient;  // of the logits; of the linear head alone
  int64_t true_positives, false_positives, false_negatives, true_negatives;
  bool has_bad_label;
};

// For tokens [first, first + count); what is written begins with token `first`.
struct BceKernels {
  void (*as_floats)(const Elements&, int64_t first, int64_t count, float* out);
  void (*forward)(const Elements& logits, const Terms&, int64_t first, int64_t count, float* losses,
                  TokenSums&);
  void (*backward[kTypes])(const Elements& logits, const Terms&, const Upstream&, int64_t first,
                           int64_t count, void* gradient);
};

// Hidden states of tokens [first, first + count), count up to kTile.
struct HiddenRows {
  const void* const* rows;
  int64_t stride;
  int64_t size;
  int64_t first;
  int64_t count;
};

// Floats of scratch memory that kTile rows need.
constexpr int64_t kRowGroup = 16;
constexpr int64_t head_scratch_floats(int64_t size) { return kRowGroup * size; }

struct RtdHeadKernels {
  // losses and weight_gradient may be null. weight_gradient [size] is added to, not yet divided by the
  // denominator.
  void (*forward[kTypes])(const HiddenRows&, const float* weight, float bias, const Terms&, float* scratch,
                          float* logits, float* losses, float* weight_gradient, TokenSums&);
  // gradient [count, size]
  void (*backward[kTypes])(const HiddenRows&, const float* weight, const float* logits, const Terms&,
                           const Upstream&, float* scratch, void* gradient, float* weight_gradient,
                           TokenSums&);
  void (*scaled[kTypes])(const float* numbers, float factor, int64_t size, void* out);
};

// One row of a batch to mask; arrays without a stride are contiguous.
struct MaskingRow {
  const int64_t* input_ids;
  int64_t input_stride;
  const uint8_t* maskable;
  int64_t maskable_stride;
  int64_t length;
  const double* uniforms;  // [slots, 2]
  int64_t slots;
  int64_t* masked_ids;
  int64_t* positions;
  int64_t* targets;
};

struct MaskingOptions {
  int64_t mask_token_id;
  int64_t vocab_size;
  double probability;
  double mask_fraction;
  double random_fraction;
};

// Numbers of scratch memory that a row of `length` tokens needs: its maskable positions, and two per slot,
// the latter in whole vectors.
constexpr int64_t masking_scratch(int64_t length, int64_t slots) { return length + 1 + 2 * slots + 16; }

struct MaskingKernels {
  // False if an id is not in the vocabulary.
  bool (*mask_row)(const MaskingRow&, const MaskingOptions&, int32_t* scratch);
};

}  // namespace electra_kernels

// Every level's tables, by name.
#define EK_DECLARE_LEVEL(level)          \
  namespace electra_kernels::level {     \
  extern const SamplingKernels sampling; \
  extern const MlmHeadKernels mlm_head;  \
  extern const BceKernels bce;           \
  extern const RtdHeadKernels rtd_head;  \
  extern const MaskingKernels masking;   \
  }
EK_FOR_EACH_LEVEL(EK_DECLARE_LEVEL)
