// Shared by every *_ops.cpp: the device and stream of a tensor, and its layout.

#pragma once

// Under fibers, and where launches are only recorded (benchmarks/audit/recorder.cpp), the ops take CPU
// tensors.
#if defined(EK_FIBERS) || defined(EK_RECORDED)
#define EK_CPU_TENSORS
#endif

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if !defined(EK_CPU_TENSORS)
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#endif

#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"

#if defined(EK_CPU_TENSORS)
#define EK_LIBRARY_IMPL(library) STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cuda, CPU, library)
#else
#define EK_LIBRARY_IMPL(library) STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cuda, CUDA, library)
#endif

namespace electra_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Makes the device of a tensor the current one for as long as it lives, and has torch's stream there.
class OnDevice {
 public:
#if defined(EK_CPU_TENSORS)
  explicit OnDevice(const Tensor&) : stream(nullptr) {}
#else
  explicit OnDevice(const Tensor& tensor)
      : guard_(tensor.get_device_index()), stream(current_stream(tensor.get_device_index())) {}

 private:
  // libtorch_cuda has this function and is not there where the library is linked, which may be a machine
  // without it; where CUDA tensors are, torch has loaded it.
  static cudaStream_t current_stream(int32_t device) {
    static const auto get = reinterpret_cast<decltype(&aoti_torch_get_current_cuda_stream)>(
        symbol("libtorch_cuda.so", "aoti_torch_get_current_cuda_stream"));
    void* stream = nullptr;
    STD_TORCH_CHECK(get(device, &stream) == 0, "torch has no current stream of device ", device);
    return static_cast<cudaStream_t>(stream);
  }

  static void* symbol(const char* library, const char* name) {
    void* const handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    void* const found = handle == nullptr ? nullptr : dlsym(handle, name);
    STD_TORCH_CHECK(found != nullptr, name, " is not in ", library, ", or torch has not loaded that");
    return found;
  }

  torch::stable::accelerator::DeviceGuard guard_;

 public:
#endif
  const cudaStream_t stream;
};

inline void check(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "CUDA: ", cudaGetErrorString(status));
}

// A small tensor, a number per row, in memory without gaps.
inline Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

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

inline Tensor empty_like(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::new_empty(tensor, tensor.sizes(), dtype);
}

// The first `dimensions` of a tensor, of all but the last for its rows; nothing if, merged, they are more
// than a kernel takes.
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

}  // namespace electra_kernels
