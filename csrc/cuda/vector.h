// Conversions, loads and stores of the element types, one at a time and 16 bytes at a time, and reductions
// over a warp. This is the only file with inline PTX; the twin of each instruction for fibers stands in front
// of it.

#pragma once

#include "device.h"

namespace electra_kernels {

#if defined(EK_FIBERS)

inline float float_of_half(uint16_t bits) {
  _Float16 half;
  memcpy(&half, &bits, sizeof(half));
  return half;
}
inline uint16_t half_of(float x) {
  const _Float16 half = static_cast<_Float16>(x);
  uint16_t bits;
  memcpy(&bits, &half, sizeof(bits));
  return x == x ? bits : 0x7fff;
}
inline uint16_t bfloat_of(float x) {
  const uint32_t bits = __float_as_int(x);
  return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff;
}
inline uint32_t halves_of(float low, float high) { return half_of(low) | half_of(high) << 16; }
inline uint32_t bfloats_of(float low, float high) { return bfloat_of(low) | bfloat_of(high) << 16; }

inline uint4 load16(const void* memory) {
  fibers::check_alignment<uint4>(memory, __LINE__);
  uint4 bits;
  memcpy(&bits, memory, sizeof(bits));
  return bits;
}
inline void store16(void* memory, uint4 bits) {
  fibers::check_alignment<uint4>(memory, __LINE__);
  memcpy(memory, &bits, sizeof(bits));
}
template <typename Bytes>
void copy_later(void* shared, const void* global) {
  fibers::check_alignment<Bytes>(shared, __LINE__);
  fibers::check_alignment<Bytes>(global, __LINE__);
  fibers::machine->copies().begin(shared, global, sizeof(Bytes));
}
inline void copy16_later(void* shared, const void* global) { copy_later<uint4>(shared, global); }
inline void copy4_later(void* shared, const void* global) { copy_later<uint32_t>(shared, global); }
inline void end_group_of_copies() { fibers::machine->copies().end_group(); }
template <int kPending>
void wait_for_copies() {
  fibers::machine->copies().wait(kPending);
}
inline void let_second_begin() {}
inline void wait_for_first() { fibers::machine->wait_for_first(); }
inline void forget_unpacked(uint4&) {}
inline float power_of_two(float x) {
  const float power = exp2f(x);
  return power < 0x1p-126f ? 0 : power;
}

#else

__device__ inline float float_of_half(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
__device__ inline uint16_t half_of(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
__device__ inline uint16_t bfloat_of(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
__device__ inline uint32_t halves_of(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
__device__ inline uint32_t bfloats_of(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

__device__ inline uint4 load16(const void* memory) { return *static_cast<const uint4*>(memory); }
__device__ inline void store16(void* memory, uint4 bits) { *static_cast<uint4*>(memory) = bits; }

// Copies from global to shared memory that the thread does not wait for. Those up to end_group_of_copies()
// are a group. After wait_for_copies<n>() the thread sees all its groups but the last n; other threads see
// them after a barrier.
__device__ inline void copy16_later(void* shared, const void* global) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}
__device__ inline void copy4_later(void* shared, const void* global) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(global) : "memory");
}
__device__ inline void end_group_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// See Overlap.
__device__ inline void let_second_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_first() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Keeps values packed until they are needed again. The compiler must assume that the bits have changed, so it
// cannot hold the unpacked floats in registers instead.
__device__ inline void forget_unpacked(uint4& bits) {
  asm("" : "+r"(bits.x), "+r"(bits.y), "+r"(bits.z), "+r"(bits.w));
}
// exp2f with denormal results flushed to 0. Handling them takes three of exp2f's four instructions.
__device__ inline float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

#endif

// ---- one number -------------------------------------------------------------------------------------------

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(BFloat16 x) { return __int_as_float(static_cast<int>(x.bits) << 16); }
__device__ inline float to_float(Float16 x) { return float_of_half(x.bits); }

__device__ inline void convert(float x, float& out) { out = x; }
__device__ inline void convert(float x, BFloat16& out) { out.bits = bfloat_of(x); }
__device__ inline void convert(float x, Float16& out) { out.bits = half_of(x); }

// ---- two numbers ------------------------------------------------------------------------------------------

// A sum or product of each half, rounded as that of single numbers. From compute capability 10.0 on it is one
// instruction: at a B200's bandwidth a multiprocessor has about nine instructions for each half-precision
// logit.
__device__ inline float2 add(float2 a, float2 b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  return __fadd2_rn(a, b);
#else
  return make_float2(a.x + b.x, a.y + b.y);
#endif
}
__device__ inline float2 multiply(float2 a, float2 b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  return __fmul2_rn(a, b);
#else
  return make_float2(a.x * b.x, a.y * b.y);
#endif
}
__device__ inline float2 pair_of(float x) { return make_float2(x, x); }

// ---- 16 bytes, at an address that is a multiple of 16 -----------------------------------------------------

template <typename T>
constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

__device__ inline bool is_aligned(const void* memory) {
  return reinterpret_cast<uintptr_t>(memory) % 16 == 0;
}

// The numbers of a vector as floats.
template <typename T>
__device__ void to_floats(uint4 bits, float (&out)[kPerVector<T>]);
template <>
__device__ inline void to_floats<float>(uint4 bits, float (&out)[4]) {
  out[0] = __int_as_float(bits.x);
  out[1] = __int_as_float(bits.y);
  out[2] = __int_as_float(bits.z);
  out[3] = __int_as_float(bits.w);
}
template <>
__device__ inline void to_floats<BFloat16>(uint4 bits, float (&out)[8]) {
  const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __int_as_float(pairs[i] << 16);
    out[2 * i + 1] = __int_as_float(pairs[i] & 0xffff0000u);
  }
}
template <>
__device__ inline void to_floats<Float16>(uint4 bits, float (&out)[8]) {
  const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = float_of_half(static_cast<uint16_t>(pairs[i]));
    out[2 * i + 1] = float_of_half(static_cast<uint16_t>(pairs[i] >> 16));
  }
}

template <typename T>
__device__ void load_vector(const T* memory, float (&out)[kPerVector<T>]) {
  to_floats<T>(load16(memory), out);
}

// The 16 bytes at an address that is no multiple of 16, from the two aligned vectors that have them.
__device__ inline uint4 load16_unaligned(const void* memory) {
  const unsigned offset = reinterpret_cast<uintptr_t>(memory) % 16;
  const char* const aligned = static_cast<const char*>(memory) - offset;
  const uint4 low = load16(aligned), high = load16(aligned + 16);
  uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  for (int i = 0; i < 6; ++i) words[i] = offset & 8 ? words[i + 2] : words[i];
  for (int i = 0; i < 5; ++i) words[i] = offset & 4 ? words[i + 1] : words[i];
  for (int i = 0; i < 4; ++i) {
    words[i] =
        static_cast<uint32_t>((static_cast<uint64_t>(words[i + 1]) << 32 | words[i]) >> offset % 4 * 8);
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ inline void store_vector(float* memory, const float (&x)[4]) {
  store16(memory,
          make_uint4(__float_as_int(x[0]), __float_as_int(x[1]), __float_as_int(x[2]), __float_as_int(x[3])));
}
__device__ inline void store_vector(BFloat16* memory, const float (&x)[8]) {
  store16(memory, make_uint4(bfloats_of(x[0], x[1]), bfloats_of(x[2], x[3]), bfloats_of(x[4], x[5]),
                             bfloats_of(x[6], x[7])));
}
__device__ inline void store_vector(Float16* memory, const float (&x)[8]) {
  store16(memory, make_uint4(halves_of(x[0], x[1]), halves_of(x[2], x[3]), halves_of(x[4], x[5]),
                             halves_of(x[6], x[7])));
}

// ---- sums and maxima over a warp, in a fixed order --------------------------------------------------------

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// The maximum of a NaN and a number is the number.
struct Maximum {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Every lane gets the same bits, provided that combine(a, b) is the same as combine(b, a).
template <typename T, typename Combine>
__device__ T reduce_warp(T value, const Combine& combine) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

}  // namespace electra_kernels
