// Host side of the ops on rows: a tensor [..., V] of any strides as rows, and scratch memory for them.

#pragma once

#include <cstdlib>
#include <memory>

#include "host.h"

namespace electra_kernels {

// The addresses of the rows of a tensor [..., V], for any strides of the leading dimensions.
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
      // A dimension that continues the one before it is merged with it.
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
    char* address = data_;
    for (size_t i = sizes_.size(); i-- > 1;) {
      address += row % sizes_[i] * strides_[i];
      row /= sizes_[i];
    }
    return sizes_.empty() ? address : address + row * strides_[0];
  }

  int64_t count = 1;
  int64_t size;    // elements of a row
  int64_t stride;  // elements from one element of a row to the next

 private:
  char* data_;
  std::vector<int64_t> sizes_, strides_;  // leading dimensions; strides in bytes
};

// Rows that are only read. Tensors may share memory lazily (copy on write): a mutable pointer would copy it.
inline Rows rows_of(const Tensor& tensor) { return {tensor, const_cast<void*>(tensor.const_data_ptr())}; }
inline Rows mutable_rows_of(const Tensor& tensor) { return {tensor, tensor.mutable_data_ptr()}; }

// Scratch memory of one thread, 64-byte aligned.
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

}  // namespace electra_kernels
