// CUDA C++ on a CPU: the threads of a block are fibers of one processor thread (machine.h, stream.h), so that
// the kernels in csrc/cuda compile and run unmodified where there is no GPU and no CUDA toolkit.
//
// A kernel may use only what this file defines, all of it exactly as CUDA does. Grids and blocks have one
// dimension.
//
// `launch` throws an error for what the hardware leaves undefined: threads at different barriers, a
// collective that some lanes of the warp miss, a vector access that is not aligned, shared memory of a block
// that has not begun or has ended, a copy to shared memory or a kernel before this one that is not waited
// for, and, with AddressSanitizer (which the tests' build has), every access out of bounds.
//
// The variable EK_MUTANT chooses the fault that is put into the kernels.

#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "stream.h"

// ---- the language -----------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- what a kernel calls ----------------------------------------------------------------------------------

#define __syncthreads() fibers::machine->wait_for_block(__LINE__)
#define __syncwarp() static_cast<void>(fibers::machine->wait_for_warp(0, __LINE__))
#define __threadfence() static_cast<void>(0)

namespace fibers {

template <typename T>
uint64_t bits_of(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle takes 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}

// The value that lane `from` has given; for a lane outside of the warp, the caller's own.
template <typename T>
T shuffle(unsigned mask, T value, int from, int line) {
  if (mask != 0xffffffffu)
    machine->note("fibers: a collective without all lanes, line " + std::to_string(line));
  const uint64_t* const given = machine->wait_for_warp(bits_of(value), line);
  const uint64_t bits = given[from >= 0 && from < kWarp ? from : machine->lane()];
  memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned ballot(unsigned mask, bool predicate, int line) {
  if (mask != 0xffffffffu)
    machine->note("fibers: a collective without all lanes, line " + std::to_string(line));
  const uint64_t* const given = machine->wait_for_warp(predicate, line);
  unsigned bits = 0;
  for (int lane = 0; lane < kWarp; ++lane) bits |= static_cast<unsigned>(given[lane]) << lane;
  return bits;
}

template <typename T>
T exchange(T* address, T value) {
  return std::exchange(*address, value);
}

}  // namespace fibers

#define __shfl_sync(mask, value, from) fibers::shuffle(mask, value, (from) & 31, __LINE__)
#define __shfl_up_sync(mask, value, step) \
  fibers::shuffle(mask, value, fibers::machine->lane() - (step), __LINE__)
#define __shfl_down_sync(mask, value, step) \
  fibers::shuffle(mask, value, fibers::machine->lane() + (step), __LINE__)
#define __shfl_xor_sync(mask, value, bits) \
  fibers::shuffle(mask, value, fibers::machine->lane() ^ (bits), __LINE__)
#define __ballot_sync(mask, predicate) fibers::ballot(mask, predicate, __LINE__)
#define __any_sync(mask, predicate) (fibers::ballot(mask, predicate, __LINE__) != 0)
#define __all_sync(mask, predicate) (fibers::ballot(mask, predicate, __LINE__) == 0xffffffffu)

// Fibers switch only at barriers and collectives, so these are atomic without further care.
template <typename T>
T atomicAdd(T* address, T value) {
  return fibers::exchange(address, static_cast<T>(*address + value));
}
template <typename T>
T atomicMin(T* address, T value) {
  return fibers::exchange(address, std::min(*address, value));
}
template <typename T>
T atomicMax(T* address, T value) {
  return fibers::exchange(address, std::max(*address, value));
}
inline unsigned atomicOr(unsigned* address, unsigned value) {
  return fibers::exchange(address, *address | value);
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __int_as_float(int x) {
  float y;
  memcpy(&y, &x, sizeof(y));
  return y;
}
inline int __float_as_int(float x) {
  int y;
  memcpy(&y, &x, sizeof(y));
  return y;
}
template <typename T>
T __ldg(const T* address) {
  return *address;
}
using std::max;
using std::min;

// ---- single-precision functions ---------------------------------------------------------------------------

namespace fibers {

// A result that a GPU may give for `x`: up to `most` units in the last place off the right one, and always
// the same for one x. Results that are exact on a GPU stay exact.
inline float off_by(float x, float result, int most) {
  if (x == 0 || !std::isfinite(x) || !std::isnormal(result)) return result;
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  const int units = static_cast<int>((bits * 2654435769u >> 16) % (2 * most + 1)) - most;
  memcpy(&bits, &result, sizeof(bits));
  bits += static_cast<uint32_t>(units);
  memcpy(&result, &bits, sizeof(bits));
  return result;
}

}  // namespace fibers

// Maximum errors as in NVIDIA's CUDA programming guide, "Mathematical functions", single precision. Kernels
// find these functions before those of the host, because they are in the kernels' own namespace.
namespace electra_kernels {

inline float expf(float x) { return fibers::off_by(x, ::expf(x), 2); }
inline float exp2f(float x) { return fibers::off_by(x, ::exp2f(x), 2); }
inline float expm1f(float x) { return fibers::off_by(x, ::expm1f(x), 1); }
inline float log1pf(float x) { return fibers::off_by(x, ::log1pf(x), 1); }

}  // namespace electra_kernels

// ---- the part of the runtime that the host functions use --------------------------------------------------

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;

inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

// ---- the twins of csrc/cuda/device.h ----------------------------------------------------------------------

namespace fibers {

inline bool is_mutant(const char* name) {
  static const std::string chosen = environment("EK_MUTANT");
  return chosen == name;
}

template <typename Vector>
void check_alignment(const void* address, int line) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(Vector) != 0) {
    machine->note("fibers: a vector access that is not aligned, line " + std::to_string(line));
  }
}

}  // namespace fibers

#define EK_MUTANT(name)                                     \
  ([]() -> bool {                                           \
    static const bool is_chosen = fibers::is_mutant(#name); \
    return is_chosen;                                       \
  }())
#define EK_SHARED(name, ...)                      \
  using name##_type = __VA_ARGS__;                \
  static char name##_key;                         \
  name##_type& name = *static_cast<name##_type*>( \
      fibers::machine->shared(&name##_key, sizeof(name##_type), alignof(name##_type)))
#define EK_DYNAMIC_SHARED(name, type) \
  type* const name = static_cast<type*>(fibers::machine->shared(nullptr, 0, 128))
