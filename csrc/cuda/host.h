// Definitions that CUDA's host functions (*_ops.cpp) share: the device and stream of a tensor, and the
// dispatch key of the ops. Under fibers (tests/cuda_on_cpu) the ops take CPU tensors.

#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#if !defined(EK_FIBERS)
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#endif

#include "../host.h"
#include "kernels.h"

#if defined(EK_FIBERS)
#define EK_LIBRARY_IMPL(library) STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cuda, CPU, library)
#else
#define EK_LIBRARY_IMPL(library) STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cuda, CUDA, library)
#endif

namespace electra_kernels {

// Makes a tensor's device the current one for the lifetime of this object, and has torch's stream on it.
class OnDevice {
 public:
#if defined(EK_FIBERS)
  explicit OnDevice(const Tensor&) : stream(nullptr) {}
#else
  explicit OnDevice(const Tensor& tensor)
      : guard_(tensor.get_device_index()), stream(current_stream(tensor.get_device_index())) {}

 private:
  // The function is in libtorch_cuda, which may be absent where this library is linked. Wherever there are
  // CUDA tensors, torch has loaded it.
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

}  // namespace electra_kernels
