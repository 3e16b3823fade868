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

struct RowStatistics {
  double logsumexp;    // of the raw logits at temperature 1; of a bad row its NaN or infinity
  float maximum;       // NaN if any logit is
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
  void (*soft_max[kTypes])(const Row&, float logsumexp, float scale, void* gradient, int64_t gradient_stride);
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
  void (*gradient[kTypes])(const Row&, int64_t target, float logsumexp, const GradientRow&);
  // The row of a gradient times a factor; 0 gives zeros, whatever is there.
  void (*scale[kTypes])(void* row, int64_t stride, int64_t size, float factor);
};

}  // namespace electra_kernels

// Every level's tables, by name.
#define EK_DECLARE_LEVEL(level)          \
  namespace electra_kernels::level {     \
  extern const SamplingKernels sampling; \
  extern const MlmHeadKernels mlm_head;  \
  }
EK_FOR_EACH_LEVEL(EK_DECLARE_LEVEL)
