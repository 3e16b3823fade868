// Included by every kernel file (*.cu): CUDA, launches, shared memory, and named barriers and bounds that the
// tests can remove.
//
// The same sources also compile as host C++ with the threads of a block as fibers (EK_FIBERS,
// tests/cuda_on_cpu/fibers.h). So a kernel uses only what fibers.h provides: no cub, no cooperative groups,
// no cuda:: barriers; collectives of whole warps and blocks of whole warps; shared memory by EK_SHARED and
// EK_DYNAMIC_SHARED, launches by `launch`, inline PTX only in vector.h. With -fmad=false the compiler fuses a
// product and a sum only where the source does: write fmaf where it pays.
//
// The blocks of a cluster (compute capability 9.0 and later) meet at EK_CLUSTER_BARRIER and write into each
// other's shared memory by `shared_of`. A block must have begun before another one writes to it, so the first
// write needs such a barrier in front of it too.
//
// Each barrier, wait, mask and bound has a name, which begins with the name of the test in tests/conformance
// that detects its absence. EK_BARRIER(masking_words) is __syncthreads(), EK_BOUND(masking_row, i < n) is i <
// n, and EK_MUTANT(name) is false. The build for fibers can switch one name at a time: a barrier or bound is
// absent then, and EK_MUTANT is true.

#pragma once

#include "kernels.h"

#if defined(EK_FIBERS)
#define EK_UNROLL
#define EK_ROLLED
#else
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#define EK_MUTANT(name) false
#define EK_UNROLL _Pragma("unroll")
#define EK_ROLLED _Pragma("unroll 1")
#define EK_SHARED(name, ...) __shared__::electra_kernels::Same<__VA_ARGS__> name
#define EK_DYNAMIC_SHARED(name, type)                                       \
  extern __shared__ __align__(128) unsigned char electra_kernels_dynamic[]; \
  type* const name = reinterpret_cast<type*>(electra_kernels_dynamic)
#endif

#define EK_BARRIER(name)                   \
  do {                                     \
    if (!EK_MUTANT(name)) __syncthreads(); \
  } while (false)
#define EK_CLUSTER_BARRIER(name)             \
  do {                                       \
    if (!EK_MUTANT(name)) cluster_barrier(); \
  } while (false)
#define EK_WAIT_FOR_FIRST(name)             \
  do {                                      \
    if (!EK_MUTANT(name)) wait_for_first(); \
  } while (false)
#define EK_BOUND(name, condition) (EK_MUTANT(name) || (condition))

namespace electra_kernels {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane() { return threadIdx.x % kWarp; }
__device__ inline int warp() { return threadIdx.x / kWarp; }

// The second of two launches may begin before the first has ended (compute capability 9.0 and later). The
// first lets it by let_second_begin(). All threads of the second call wait_for_first(), before they read what
// the first has written; whatever came before the first has ended anyway.
enum class Overlap { kNone, kFirst, kSecond };

struct Launch {
  int64_t blocks;  // 0: nothing is launched
  int threads;     // threads per block, whole warps
  cudaStream_t stream;
  int64_t shared_bytes = 0;  // dynamic shared memory
  int cluster = 1;           // blocks of a cluster; it divides `blocks`
  Overlap overlap = Overlap::kNone;
};

#if defined(EK_FIBERS)
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& launch, const Arguments&... arguments) {
  const int64_t most_shared = launch.shared_bytes > kSharedBytes ? 227 << 10 : 48 << 10;
  fibers::stream.launch(launch.overlap == Overlap::kFirst, launch.overlap == Overlap::kSecond,
                        [=](fibers::Machine& machine, std::function<void()> first) {
                          machine.launch(
                              launch.blocks, launch.threads, launch.cluster, launch.shared_bytes, most_shared,
                              [&] { kernel(arguments...); }, std::move(first));
                        });
}

inline bool is_of_generation_90(const void*) { return true; }

#define cluster_barrier() fibers::machine->wait_for_cluster(__LINE__)
template <typename T>
T* shared_of(T* own, int rank) {
  return static_cast<T*>(fibers::machine->shared_of(own, rank));
}
#else
template <typename T>
using Same = T;

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

// Raises a kernel's limit of dynamic shared memory to the most that a block can have, once per device. If the
// limit were set to what each launch needs, another host thread could lower it before the launch.
inline void allow_shared_memory(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int> > allowed;
  int device = 0, most = 0;
  check(cudaGetDevice(&device));
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({kernel, device}) != 0) return;
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel));
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             most - static_cast<int>(attributes.sharedSizeBytes)));
  // Otherwise the driver may leave so much to the cache that fewer blocks fit on a multiprocessor.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared));
  allowed.insert({kernel, device});
}

// Whether the kernel's code is of generation 9.0 or later, which can wait for another kernel and has
// clusters. Code of an older generation, which a newer GPU translates, has neither.
inline bool is_of_generation_90(const void* kernel) {
  static thread_local std::map<std::pair<const void*, int>, bool> known;
  int device = 0;
  check(cudaGetDevice(&device));
  const auto found = known.find({kernel, device});
  if (found != known.end()) return found->second;
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel));
  return known[{kernel, device}] = attributes.ptxVersion >= 90;
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& launch, const Arguments&... arguments) {
  if (launch.blocks == 0) return;
  if (launch.blocks > INT32_MAX) throw std::runtime_error("CUDA: more than 2^31 - 1 blocks");
  const void* const function = reinterpret_cast<const void*>(kernel);
  if (launch.shared_bytes > kSharedBytes) allow_shared_memory(function);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(static_cast<unsigned>(launch.threads));
  config.dynamicSmemBytes = static_cast<size_t>(launch.shared_bytes);
  config.stream = launch.stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (launch.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(launch.cluster), 1, 1};
  }
  if (launch.overlap == Overlap::kSecond && is_of_generation_90(function)) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
}

__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
#endif
}

// Maps an address in this block's shared memory to the same address in that of block `rank` of the cluster.
template <typename T>
__device__ T* shared_of(T* own, int rank) {
#if __CUDA_ARCH__ >= 900
  return static_cast<T*>(__cluster_map_shared_rank(own, rank));
#else
  return own;
#endif
}
#endif

// Offset of the element `index` of a tensor, in elements from its first.
__device__ inline int64_t offset_of(const Layout& layout, int64_t index) {
  int64_t offset = 0;
  for (int d = layout.dimensions - 1; d > 0; --d) {
    offset += index % layout.sizes[d] * layout.strides[d];
    index /= layout.sizes[d];
  }
  return offset + index * layout.strides[0];
}

}  // namespace electra_kernels
