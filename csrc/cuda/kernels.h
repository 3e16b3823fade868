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

// How the elements of a tensor lie, in the order of its elements: dimensions outermost first, those that
// continue each other merged, strides in elements. At least one dimension.
constexpr int kMaxDimensions = 8;
struct Layout {
  int dimensions;
  int64_t sizes[kMaxDimensions];
  int64_t strides[kMaxDimensions];
};

// The first row with a value that is refused, all ones if there is none. Null: values are not checked.
using FirstBadRow = unsigned long long*;

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
constexpr int64_t kMaskingWordsInShared = (48 << 10) / sizeof(uint32_t);

void mask_rows(const MaskingBatch&, const MaskingOptions&, FirstBadRow, cudaStream_t);

struct ReplacementBatch {
  const int64_t* input_ids;
  int64_t row_stride, stride;
  const int64_t* positions;  // [batch, slots]
  const int64_t* tokens;     // [batch, slots]
  int64_t batch, length, slots;
  int64_t* ids;       // [batch, length]
  bool* is_replaced;  // [batch, length]
};

void replace_rows(const ReplacementBatch&, FirstBadRow, cudaStream_t);

}  // namespace electra_kernels
