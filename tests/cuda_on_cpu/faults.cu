// Kernels of one block or one cluster for test_fibers.py. Each is right, or has one fault.

#include "../../csrc/cuda/vector.h"
#include "faults.h"

namespace cuda_on_cpu {
namespace {

using namespace electra_kernels;

constexpr int kThreads = 96;

__device__ float neighbour() { return static_cast<float>((threadIdx.x + 1) % kThreads); }

__global__ void with_barrier(float* out) {
  EK_SHARED(numbers, float[kThreads]);
  numbers[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = numbers[(threadIdx.x + 1) % kThreads];
}

__global__ void without_barrier(float* out) {
  EK_SHARED(numbers, float[kThreads]);
  numbers[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = numbers[(threadIdx.x + 1) % kThreads];
}

__global__ void dynamic_shared(float* out) {
  EK_DYNAMIC_SHARED(numbers, float);
  numbers[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = numbers[(threadIdx.x + 1) % kThreads];
}

__global__ void early_exit(float* out) {
  out[threadIdx.x] = neighbour();
  if (threadIdx.x < 40) return;
  __syncthreads();
}

__global__ void reductions(float* out) {
  const float sum = reduce_warp(static_cast<float>(lane()), Sum());
  const float maximum = reduce_warp(static_cast<float>(threadIdx.x), Maximum());
  const bool is_right = sum == kWarp * (kWarp - 1) / 2 && maximum == kWarp * warp() + kWarp - 1;
  out[threadIdx.x] = is_right ? neighbour() : -1;
}

// Shuffles past the edge of a warp return the lane's own value, as CUDA documents.
__global__ void collectives(float* out) {
  const int i = lane();
  bool is_right = __shfl_sync(kAllLanes, i, 5) == 5 && __shfl_xor_sync(kAllLanes, i, 3) == (i ^ 3);
  is_right &= __shfl_up_sync(kAllLanes, i, 2) == (i < 2 ? i : i - 2);
  is_right &= __shfl_down_sync(kAllLanes, i, 2) == (i > 29 ? i : i + 2);
  is_right &= __ballot_sync(kAllLanes, i < 3) == 7u;
  is_right &= __any_sync(kAllLanes, i == 31) && !__all_sync(kAllLanes, i == 31);
  is_right &= __shfl_sync(kAllLanes, i * 1e300, 7) == 7e300;
  out[threadIdx.x] = is_right ? neighbour() : -1;
}

__global__ void vectors(float* out) {
  EK_SHARED(numbers, Float16[kPerVector<Float16>]);
  float x[8] = {0, -1.5f, 65504, 70000, 1e-7f, __builtin_inff(), 1.0009766f, 1.00048828125f};
  if (threadIdx.x == 0) store_vector(numbers, x);
  __syncthreads();
  load_vector(numbers, x);
  const float inf = __builtin_inff();
  const float expected[8] = {0, -1.5f, 65504, inf, 1.1920929e-7f, inf, 1.0009765625f, 1};
  bool is_right = true;
  for (int i = 0; i < 8; ++i) is_right &= x[i] == expected[i];
  out[threadIdx.x] = is_right ? neighbour() : -1;
}

__global__ void barrier_of_some(float* out) {
  if (threadIdx.x < 40) __syncthreads();
  if (threadIdx.x >= 40) out[threadIdx.x] = __shfl_sync(kAllLanes, 1.0f, 0);
}

__global__ void different_barriers(float* out) {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 0;
}

__global__ void collective_of_some(float* out) {
  if (threadIdx.x % 2 == 0) out[threadIdx.x] = __shfl_sync(kAllLanes, 1.0f, 0);
}

__global__ void half_a_mask(float* out) { out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0); }

__global__ void read_behind_global(float* out) { out[threadIdx.x] = out[threadIdx.x + 1]; }

__global__ void write_behind_shared(float* out) {
  EK_SHARED(numbers, float[kThreads]);
  numbers[threadIdx.x + 1] = 0;
  out[threadIdx.x] = 0;
}

__global__ void write_behind_dynamic_shared(float* out) {
  EK_DYNAMIC_SHARED(numbers, float);
  numbers[threadIdx.x + 1] = 0;
  out[threadIdx.x] = 0;
}

__global__ void unaligned_vector(float* out) {
  float x[4];
  load_vector(out + 1, x);
}

// Together with the dynamic memory of its launch, this is more than a block has.
__global__ void too_much_shared(float* out) {
  EK_SHARED(numbers, float[(48 << 10) / sizeof(float) - kThreads + 1]);
  numbers[threadIdx.x] = 0;
  out[threadIdx.x] = 0;
}

// Writes the threads in the order in which they ran.
__global__ void order(float* out) {
  EK_SHARED(count, int);
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  out[atomicAdd(&count, 1)] = static_cast<float>(threadIdx.x);
}

// ---- copies to shared memory ----

__device__ void copy_own(const float* numbers, float* copy) {
  copy4_later(copy + threadIdx.x, numbers + threadIdx.x);
  end_group_of_copies();
}

__global__ void copies(float* out) {
  EK_DYNAMIC_SHARED(copy, float);
  out[threadIdx.x] = static_cast<float>(threadIdx.x);
  copy_own(out, copy);
  wait_for_copies<0>();
  __syncthreads();
  out[threadIdx.x] = copy[(threadIdx.x + 1) % kThreads];
}

__global__ void copies_awaited_late(float* out) {
  EK_DYNAMIC_SHARED(copy, float);
  out[threadIdx.x] = static_cast<float>(threadIdx.x);
  copy_own(out, copy);
  wait_for_copies<1>();
  out[threadIdx.x] = copy[threadIdx.x];
  wait_for_copies<0>();
}

__global__ void copies_of_what_changes(float* out) {
  EK_DYNAMIC_SHARED(copy, float);
  copy_own(out, copy);
  out[threadIdx.x] = -1;
  wait_for_copies<0>();
  out[threadIdx.x] = copy[threadIdx.x];
}

__global__ void copies_not_awaited(float* out) {
  EK_DYNAMIC_SHARED(copy, float);
  copy_own(out, copy);
}

__global__ void unaligned_copy(float* out) {
  EK_DYNAMIC_SHARED(copy, float);
  copy16_later(copy, out + 1);
  end_group_of_copies();
  wait_for_copies<0>();
}

// ---- two kernels that overlap; the first numbers the threads ----

__global__ void first_of_two(float* out) { out[threadIdx.x] = static_cast<float>(threadIdx.x); }

__global__ void overlap(float* out) {
  wait_for_first();
  const float x = out[(threadIdx.x + 1) % kThreads];
  __syncthreads();
  out[threadIdx.x] = x;
}

__global__ void overlap_read_early(float* out) {
  const float x = out[(threadIdx.x + 1) % kThreads];
  wait_for_first();
  __syncthreads();
  out[threadIdx.x] = x;
}

__global__ void overlap_awaited_by_some(float*) {
  if (threadIdx.x < 40) wait_for_first();
}

__global__ void overlap_not_awaited(float*) {}

// ---- three blocks of a warp each, one cluster ----

__device__ int thread_of_cluster() { return static_cast<int>(blockIdx.x) * kWarp + lane(); }

__global__ void cluster(float* out) {
  EK_SHARED(numbers, float[kWarp]);
  const int thread = thread_of_cluster(), before = (thread + kThreads - 1) % kThreads;
  EK_CLUSTER_BARRIER(none);
  shared_of(numbers, before / kWarp)[before % kWarp] = static_cast<float>(thread);
  EK_CLUSTER_BARRIER(none);
  out[thread] = numbers[lane()];
}

__global__ void cluster_without_barrier(float* out) {
  EK_SHARED(numbers, float[kWarp]);
  const int thread = thread_of_cluster(), before = (thread + kThreads - 1) % kThreads;
  EK_CLUSTER_BARRIER(none);
  shared_of(numbers, before / kWarp)[before % kWarp] = static_cast<float>(thread);
  out[thread] = numbers[lane()];
  EK_CLUSTER_BARRIER(none);
}

__global__ void block_not_begun(float* out) {
  EK_SHARED(numbers, float[kWarp]);
  shared_of(numbers, (blockIdx.x + 1) % 3)[lane()] = 0;
  EK_CLUSTER_BARRIER(none);
  out[thread_of_cluster()] = numbers[lane()];
}

__global__ void block_ended(float* out) {
  EK_SHARED(numbers, float[kWarp]);
  if (blockIdx.x == 0) return;
  EK_CLUSTER_BARRIER(none);
  out[thread_of_cluster()] = shared_of(numbers, 0)[lane()];
}

__global__ void cluster_barrier_of_some(float* out) {
  if (blockIdx.x == 0) EK_CLUSTER_BARRIER(none);
  if (blockIdx.x != 0 && lane() < 30) __syncthreads();
  out[thread_of_cluster()] = __shfl_sync(kAllLanes, 1.0f, 0);
}

#define KERNEL(name) {#name, name}
const std::pair<const char*, void (*)(float*)> kKernels[] = {
    KERNEL(with_barrier),
    KERNEL(without_barrier),
    KERNEL(dynamic_shared),
    KERNEL(early_exit),
    KERNEL(reductions),
    KERNEL(collectives),
    KERNEL(vectors),
    KERNEL(barrier_of_some),
    KERNEL(different_barriers),
    KERNEL(collective_of_some),
    KERNEL(half_a_mask),
    KERNEL(read_behind_global),
    KERNEL(unaligned_vector),
    KERNEL(write_behind_shared),
    KERNEL(write_behind_dynamic_shared),
    KERNEL(too_much_shared),
    KERNEL(order),
    KERNEL(copies),
    KERNEL(copies_awaited_late),
    KERNEL(copies_of_what_changes),
    KERNEL(copies_not_awaited),
    KERNEL(unaligned_copy),
};
const std::pair<const char*, void (*)(float*)> kSecondKernels[] = {
    KERNEL(overlap),
    KERNEL(overlap_read_early),
    KERNEL(overlap_awaited_by_some),
    KERNEL(overlap_not_awaited),
};
const std::pair<const char*, void (*)(float*)> kClusterKernels[] = {
    KERNEL(cluster),     KERNEL(cluster_without_barrier), KERNEL(block_not_begun),
    KERNEL(block_ended), KERNEL(cluster_barrier_of_some),
};

}  // namespace

int64_t launches() { return fibers::launches(); }

void run(const std::string& name, int threads, float* out) {
  for (const auto& [known, kernel] : kKernels) {
    if (name == known) return launch(kernel, {1, threads, nullptr, kThreads * sizeof(float)}, out);
  }
  for (const auto& [known, kernel] : kClusterKernels) {
    if (name == known) return launch(kernel, {3, kWarp, nullptr, 0, 3}, out);
  }
  for (const auto& [known, kernel] : kSecondKernels) {
    if (name != known) continue;
    launch(first_of_two, {1, threads, nullptr, 0, 1, Overlap::kFirst}, out);
    return launch(kernel, {1, threads, nullptr, 0, 1, Overlap::kSecond}, out);
  }
  throw std::runtime_error("no kernel " + name);
}

}  // namespace cuda_on_cpu
