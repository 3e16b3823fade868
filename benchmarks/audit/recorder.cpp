// A CUDA runtime that launches nothing and keeps what it was asked to: linked with the objects of the CUDA
// kernels, as nvcc makes them, and with their host functions for CPU tensors, it says which kernel a call of
// an op would launch on a GPU that is not here, with how many blocks, threads and bytes of shared memory.
//
// A kernel is known by the symbol that it has in the compiled objects, which its registration gives.

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <map>
#include <string>

namespace {

int capability, multiprocessors, shared_bytes_of_a_block;

// By the address of the function that stands for it on the host.
std::map<const void*, std::string>& symbols() {
  static std::map<const void*, std::string> all;
  return all;
}

std::string& recorded() {
  static std::string lines;
  return lines;
}

int cluster_of(const cudaLaunchConfig_t& config) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id == cudaLaunchAttributeClusterDimension) return config.attrs[i].val.clusterDim.x;
  }
  return 1;
}

}  // namespace

extern "C" {

// ---- for the audit ----------------------------------------------------------------------------------------

__attribute__((visibility("default"))) void begin_recording(int major_and_minor, int processors,
                                                            int bytes_of_a_block) {
  capability = major_and_minor;
  multiprocessors = processors;
  shared_bytes_of_a_block = bytes_of_a_block;
  recorded().clear();
}

// A launch a line: symbol, blocks, threads of a block, dynamic shared bytes, blocks of a cluster.
__attribute__((visibility("default"))) const char* launches() { return recorded().c_str(); }

// ---- what nvcc's registration of kernels calls ------------------------------------------------------------

void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* symbol, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {
  symbols()[host] = symbol;
}

// By <<<...>>>, which no kernel is launched with.
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { std::abort(); }
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { std::abort(); }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { std::abort(); }

// ---- the runtime ------------------------------------------------------------------------------------------

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host, void**) {
  const auto numbers = {config->gridDim.x, config->blockDim.x,
                        static_cast<unsigned>(config->dynamicSmemBytes),
                        static_cast<unsigned>(cluster_of(*config))};
  recorded() += symbols().at(host);
  for (const unsigned number : numbers) recorded() += " " + std::to_string(number);
  recorded() += "\n";
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = multiprocessors;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = shared_bytes_of_a_block;
      return cudaSuccess;
    case cudaDevAttrClusterLaunch:
      *value = capability >= 90;
      return cudaSuccess;
    default:
      return cudaErrorNotSupported;
  }
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "not answered where launches are recorded"; }
}
