// What every *_ops.cpp needs: the levels, rows of tensors of any strides, and loops on torch's own threads.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"

namespace electra_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The tables of kernels of one instruction-set level.
struct Level {
  const char* name;
  const SamplingKernels& sampling;
  const MlmHeadKernels& mlm_head;
  const BceKernels& bce;
  const RtdHeadKernels& rtd_head;
  const MaskingKernels& masking;
};

// Throws if the machine has no such level. The order is that of the build, from the least demanding up.
const Level& level_at(int64_t index);

inline Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Type::kFloat32;
    case ScalarType::BFloat16:
      return Type::kBFloat16;
    case ScalarType::Half:
      return Type::kFloat16;
    default:
      STD_TORCH_CHECK(false, "expected float32, bfloat16 or float16");
  }
}

template <typename Function>
Function for_type(Function const (&functions)[kTypes], const Tensor& tensor) {
  return functions[static_cast<int>(type_of(tensor))];
}

inline int64_t element_size(const Tensor& tensor) { return type_of(tensor) == Type::kFloat32 ? 4 : 2; }

// A tensor [..., V] as rows: where each begins, whatever the strides of the leading dimensions.
class Rows {
 public:
  Rows(const Tensor& tensor, void* data) : data_(static_cast<char*>(data)) {
    const auto sizes = tensor.sizes();
    const auto strides = tensor.strides();
    const int64_t bytes = element_size(tensor);
    size = sizes[sizes.size() - 1];
    stride = strides[strides.size() - 1];
    for (size_t i = 0; i + 1 < sizes.size(); ++i) {
      count *= sizes[i];
      // Dimensions that continue each other are one.
      if (!sizes_.empty() && strides_.back() == strides[i] * sizes[i] * bytes) {
        sizes_.back() *= sizes[i];
        strides_.back() = strides[i] * bytes;
      } else if (sizes[i] != 1) {
        sizes_.push_back(sizes[i]);
        strides_.push_back(strides[i] * bytes);
      }
    }
  }

  void* operator[](int64_t row) const {
    char* place = data_;
    for (size_t i = sizes_.size(); i-- > 1;) {
      place += row % sizes_[i] * strides_[i];
      row /= sizes_[i];
    }
    return sizes_.empty() ? place : place + row * strides_[0];
  }

  int64_t count = 1;
  int64_t size;
  int64_t stride;

 private:
  char* data_;
  std::vector<int64_t> sizes_, strides_;
};

// Reading does not copy a tensor that is shared lazily.
inline Rows rows_of(const Tensor& tensor) { return {tensor, const_cast<void*>(tensor.const_data_ptr())}; }
inline Rows mutable_rows_of(const Tensor& tensor) { return {tensor, tensor.mutable_data_ptr()}; }

// A small tensor, a number per row, in memory without gaps.
inline Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor empty_like(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::new_empty(tensor, tensor.sizes(), dtype);
}

// A new tensor like this one, without gaps. In a big one the page faults cost more than the writing: huge
// pages, where the system grants them, make them few.
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

// Nothing was counted: loss and gradient are 0.
inline double reciprocal_or_zero(double denominator) { return denominator != 0 ? 1 / denominator : 0; }

// [..., 2] for a tensor [...], and what is in it.
inline Tensor empty_parts(const Tensor& like) {
  std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
  sizes.push_back(2);
  return torch::stable::new_empty(like, sizes, ScalarType::Float);
}
inline LogSumExp* parts_of(Tensor& tensor) {
  return reinterpret_cast<LogSumExp*>(tensor.mutable_data_ptr<float>());
}
inline const LogSumExp* parts_of(const Tensor& tensor) {
  return reinterpret_cast<const LogSumExp*>(tensor.const_data_ptr<float>());
}

inline double checked_normalizer(const Tensor& normalizer) {
  const double value = *normalizer.const_data_ptr<double>();
  STD_TORCH_CHECK(value > 0 && std::isfinite(value), "normalizer out of range");
  return value;
}

// Scratch memory of one thread.
class Scratch {
 public:
  explicit Scratch(int64_t floats)
      : memory_(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64)), std::free) {
    STD_TORCH_CHECK(memory_ != nullptr, "out of memory");
  }
  float* get() const { return memory_.get(); }

 private:
  std::unique_ptr<float, void (*)(void*)> memory_;
};

// body(first, last) on torch's threads, none of which gets less than about 32 K elements.
template <typename Body>
void for_rows(int64_t count, int64_t row_size, const Body& body) {
  if (count == 0) return;
  torch::stable::parallel_for(0, count, std::max<int64_t>(1, (1 << 15) / row_size), body);
}

// The caller finds the words for a value that is refused here (electra_kernels/reference/_values.py).
inline void check_uniforms(const double* uniforms, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(uniforms[i] >= 0 && uniforms[i] < 1, "uniforms out of range");
  }
}

}  // namespace electra_kernels
