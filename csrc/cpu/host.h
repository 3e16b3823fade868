// Definitions that the CPU's host functions (*_ops.cpp) share: the instruction-set levels, and loops on
// torch's own threads.

#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>

#include "../host.h"
#include "kernels.h"

namespace electra_kernels {

// The tables of kernels of one instruction-set level.
struct Level {
  const char* name;
  const SamplingKernels& sampling;
  const MlmHeadKernels& mlm_head;
  const VocabParallelKernels& vocab_parallel;
  const BceKernels& bce;
  const RtdHeadKernels& rtd_head;
  const MaskingKernels& masking;
};

// Levels are numbered as the build lists them, from the least demanding up. Throws if this machine cannot run
// the level.
const Level& level_at(int64_t index);

template <typename Function>
Function for_type(Function const (&functions)[kTypes], const Tensor& tensor) {
  return functions[static_cast<int>(type_of(tensor))];
}

inline int64_t element_size(const Tensor& tensor) { return type_of(tensor) == Type::kFloat32 ? 4 : 2; }

// An uninitialised contiguous tensor of the same shape and dtype. In a large one the page faults would cost
// more than the writes; huge pages, where the system grants them, make the faults few.
inline Tensor new_like(const Tensor& tensor) {
  const Tensor result = empty_like(tensor, tensor.scalar_type());
#if defined(__linux__)
  constexpr uintptr_t kHugePage = 1 << 21;
  const uintptr_t start = reinterpret_cast<uintptr_t>(result.mutable_data_ptr());
  const uintptr_t first = (start + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (start + result.numel() * element_size(result)) / kHugePage * kHugePage;
  if (last >= first + 4 * kHugePage) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return result;
}

template <typename Value>
Tensor scalar_like(const Tensor& like, ScalarType dtype, Value value) {
  Tensor result = torch::stable::new_empty(like, {}, dtype);
  *result.mutable_data_ptr<Value>() = value;
  return result;
}

// The messages of the checks below never reach a user: the caller then finds the bad value and names it
// (electra_kernels/backends/value_checks.py).
inline double checked_normalizer(const Tensor& normalizer) {
  const double value = *normalizer.const_data_ptr<double>();
  STD_TORCH_CHECK(value > 0 && std::isfinite(value), "normalizer out of range");
  return value;
}

inline void check_uniforms(const double* uniforms, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(uniforms[i] >= 0 && uniforms[i] < 1, "uniforms out of range");
  }
}

// Calls body(first, last) on torch's threads for ranges of `count` rows. A thread gets at least about 32 K
// elements.
template <typename Body>
void for_rows(int64_t count, int64_t row_size, const Body& body) {
  if (count == 0) return;
  torch::stable::parallel_for(0, count, std::max<int64_t>(1, (1 << 15) / row_size), body);
}

}  // namespace electra_kernels
