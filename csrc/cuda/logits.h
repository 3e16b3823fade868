// Host side of the ops on rows of logits: a tensor [..., V] as rows, checks of their values, scratch memory.

#pragma once

#include "host.h"

namespace electra_kernels {

inline Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Type::kFloat32;
    case ScalarType::BFloat16:
      return Type::kBFloat16;
    case ScalarType::Half:
      return Type::kFloat16;
    default:
      STD_TORCH_CHECK(false, "logits should be float32, bfloat16 or float16");
  }
}

// A tensor of more dimensions than a kernel takes is copied.
inline Tensor viewable(const Tensor& tensor) {
  return layout_of(tensor, tensor.dim() - 1) ? tensor : torch::stable::contiguous(tensor);
}

inline void write_back(const Tensor& tensor, const Tensor& view) {
  if (view.const_data_ptr() == tensor.const_data_ptr()) return;
  Tensor target = tensor;
  torch::stable::copy_(target, view);
}

// Rows that are read, or written: then a tensor that is shared lazily gets memory of its own.
inline LogitRows rows_of(const Tensor& tensor, bool is_written, const std::optional<Tensor>& bias = {}) {
  const int64_t size = tensor.size(-1);
  STD_TORCH_CHECK(size <= INT32_MAX - 2 * kTile, "logits has rows that are too long");
  return {is_written ? tensor.mutable_data_ptr() : const_cast<void*>(tensor.const_data_ptr()),
          type_of(tensor),
          *layout_of(tensor, tensor.dim() - 1),
          tensor.stride(-1),
          tensor.numel() / size,
          static_cast<int>(size),
          bias ? bias->const_data_ptr<float>() : nullptr};
}

inline std::optional<Tensor> packed(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(packed(*tensor)) : std::nullopt;
}

template <typename Value>
const Value* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr<Value>() : nullptr;
}

class Scratch {
 public:
  Scratch(const Tensor& like, int64_t floats) {
    if (floats > 0) memory_ = torch::stable::new_empty(like, {floats}, ScalarType::Float);
  }
  float* get() const { return memory_ ? memory_->mutable_data_ptr<float>() : nullptr; }

 private:
  std::optional<Tensor> memory_;
};

}  // namespace electra_kernels
