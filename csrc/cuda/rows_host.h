// Host side of the ops on rows: a tensor [..., V] of any strides as rows, and scratch memory for them.

#pragma once

#include "host.h"

namespace electra_kernels {

// The layout of the first `dimensions` of a tensor: all but the last give the layout of its rows. A dimension
// that continues the one before it is merged with it. Returns nothing if more than kMaxDimensions remain.
inline std::optional<Layout> layout_of(const Tensor& tensor, int64_t dimensions) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  Layout layout = {0, {}, {}};
  for (int64_t i = 0; i < dimensions; ++i) {
    const int last = layout.dimensions - 1;
    if (last >= 0 && layout.strides[last] == strides[i] * sizes[i]) {
      layout.sizes[last] *= sizes[i];
      layout.strides[last] = strides[i];
    } else if (sizes[i] != 1) {
      if (layout.dimensions == kMaxDimensions) return std::nullopt;
      layout.sizes[layout.dimensions] = sizes[i];
      layout.strides[layout.dimensions++] = strides[i];
    }
  }
  if (layout.dimensions == 0) layout = {1, {1}, {1}};
  return layout;
}

// The tensor itself, or a contiguous copy if it has more dimensions than a kernel takes.
inline Tensor viewable(const Tensor& tensor) {
  return layout_of(tensor, tensor.dim() - 1) ? tensor : torch::stable::contiguous(tensor);
}

// Copies the result back if `viewable` has made a copy.
inline void write_back(const Tensor& tensor, const Tensor& view) {
  if (view.const_data_ptr() == tensor.const_data_ptr()) return;
  Tensor target = tensor;
  torch::stable::copy_(target, view);
}

// If `is_written`, a tensor whose memory is shared lazily (copy on write) gets its own memory first.
inline LogitRows rows_of(const Tensor& tensor, bool is_written) {
  const int64_t size = tensor.size(-1);
  STD_TORCH_CHECK(size <= INT32_MAX - 2 * kTile, "logits has rows that are too long");
  STD_TORCH_CHECK(tensor.numel() / size <= 1 << 30, "logits has ", tensor.numel() / size,
                  " rows, should have at most 2^30");
  return {is_written ? tensor.mutable_data_ptr() : const_cast<void*>(tensor.const_data_ptr()),
          type_of(tensor),
          *layout_of(tensor, tensor.dim() - 1),
          tensor.stride(-1),
          tensor.numel() / size,
          static_cast<int>(size)};
}

// Scratch memory of a launch, on the device; null if it needs none.
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
