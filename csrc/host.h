// Definitions that the host functions (*_ops.cpp) of both devices share. Kernel files include common.h
// instead, which needs no torch.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "common.h"

namespace electra_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

inline Number number_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Number::kFloat32;
    case ScalarType::BFloat16:
      return Number::kBFloat16;
    case ScalarType::Half:
      return Number::kFloat16;
    case ScalarType::Double:
      return Number::kFloat64;
    case ScalarType::Bool:
      return Number::kBool;
    case ScalarType::Byte:
      return Number::kUint8;
    case ScalarType::Int:
      return Number::kInt32;
    case ScalarType::Long:
      return Number::kInt64;
    default:
      STD_TORCH_CHECK(false, "unexpected dtype of logits, labels, mask or weights");
  }
}

// A contiguous tensor with these values; for small tensors, such as one number per row.
inline Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}
inline std::optional<Tensor> packed(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(packed(*tensor)) : std::nullopt;
}

template <typename Value>
const Value* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<Value>() : nullptr;
}

inline Tensor empty_like(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::new_empty(tensor, tensor.sizes(), dtype);
}

// ---- the log-sum-exp of rows, as float32 [..., 2] ---------------------------------------------------------

// An uninitialised tensor [..., 2] for a tensor [...].
inline Tensor empty_logsumexps(const Tensor& like) {
  std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
  sizes.push_back(2);
  return torch::stable::new_empty(like, sizes, ScalarType::Float);
}

inline LogSumExp* logsumexps_of(Tensor& tensor) {
  return reinterpret_cast<LogSumExp*>(tensor.mutable_data_ptr<float>());
}
inline const LogSumExp* logsumexps_of(const Tensor& tensor) {
  return reinterpret_cast<const LogSumExp*>(tensor.const_data_ptr<float>());
}

// The outputs of the masked-LM head for each row, with the targets' shape [...]. Every row is written.
struct CrossEntropyTensors {
  Tensor losses, tokens, is_top1, logsumexp;
  Tensor parts;  // of the logsumexp, [..., 2]
};

inline CrossEntropyTensors new_cross_entropies(const Tensor& targets) {
  return {empty_like(targets, ScalarType::Float), empty_like(targets, ScalarType::Long),
          empty_like(targets, ScalarType::Bool), empty_like(targets, ScalarType::Float),
          empty_logsumexps(targets)};
}

}  // namespace electra_kernels
