// One vector of floats per instruction-set level: conversions, loads and stores of the element types, and the
// few operations that the kernels are made of.
//
// A source that includes this file is compiled once per level. Everything here and there is in an anonymous
// namespace, and includes neither the standard library nor torch: see common.h.

#pragma once

#include "../common.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define EK_INLINE inline __attribute__((always_inline))

namespace electra_kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
// All lanes. Without a mask, g++ 12 warns of an uninitialised operand inside the intrinsics.
constexpr __mmask16 kAll = 0xffff;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#elif defined(__SSE2__) || defined(__aarch64__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 1;
#endif

using Floats = float __attribute__((vector_size(4 * kLanes)));
using Integers = uint32_t __attribute__((vector_size(4 * kLanes)));
using Shorts = uint16_t __attribute__((vector_size(2 * kLanes)));

template <typename To, typename From>
EK_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename Vector>
EK_INLINE Vector load_as(const void* memory) {
  Vector vector;
  __builtin_memcpy(&vector, memory, sizeof(vector));
  return vector;
}

// ---- one number ---------------------------------------------------------------------------------------

EK_INLINE float to_float(float x) { return x; }
EK_INLINE float to_float(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
EK_INLINE float to_float(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  if (rest >= 0x7c00u << 13) return bit_cast<float>(sign | 0x7f800000u | (rest & 0x7fffffu));
  // The product corrects the exponent's bias, and normalises numbers that are denormal in float16.
  return bit_cast<float>(sign | bit_cast<uint32_t>(bit_cast<float>(rest) * 0x1p112f));
}

EK_INLINE void convert(float x, float& out) { out = x; }
EK_INLINE void convert(float x, BFloat16& out) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  if (x != x) {
    out.bits = static_cast<uint16_t>(bits >> 16 | 0x40u);
  } else {
    out.bits = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}
EK_INLINE void convert(float x, Float16& out) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t rest = bits & 0x7fffffffu;
  uint32_t half;
  if (rest > 0x7f800000u) {
    half = 0x7e00u | (rest >> 13 & 0x3ffu);
  } else if (rest >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (rest < 0x38800000u) {
    // Below the smallest normal: adding 1/2 leaves the rounded multiple of 2^-24 in the low bits.
    half = bit_cast<uint32_t>(bit_cast<float>(rest) + 0.5f) - 0x3f000000u;
  } else {
    half = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
  }
  out.bits = static_cast<uint16_t>(sign | half);
}

// ---- kLanes numbers that are contiguous in memory, at any alignment ---------------------------------------

EK_INLINE Floats load(const float* memory) { return load_as<Floats>(memory); }

EK_INLINE Floats load(const BFloat16* memory) {
  return bit_cast<Floats>(__builtin_convertvector(load_as<Shorts>(memory), Integers) << 16);
}

EK_INLINE Floats load(const Float16* memory) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(kAll, load_as<__m256i>(memory));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(load_as<__m128i>(memory));
#elif defined(__aarch64__)
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&memory->bits)));
#else
  Floats x;
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = to_float(memory[lane]);
  return x;
#endif
}

EK_INLINE void store(float* memory, Floats x) { __builtin_memcpy(memory, &x, sizeof(x)); }

EK_INLINE void store(BFloat16* memory, Floats x) {
#if defined(__AVX512BF16__)
  // This instruction treats denormal numbers as zeros.
  const __m256bh rounded = _mm512_cvtneps_pbh(x);
  __builtin_memcpy(memory, &rounded, sizeof(rounded));
#else
  const Integers bits = bit_cast<Integers>(x);
  const Integers rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const Integers chosen = x == x ? rounded : (bits >> 16 | 0x40u);
  const Shorts halves = __builtin_convertvector(chosen, Shorts);
  __builtin_memcpy(memory, &halves, sizeof(halves));
#endif
}

EK_INLINE void store(Float16* memory, Floats x) {
#if defined(__AVX512F__)
  const __m256i halves = _mm512_maskz_cvtps_ph(kAll, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __builtin_memcpy(memory, &halves, sizeof(halves));
#elif defined(__F16C__)
  const __m128i halves = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __builtin_memcpy(memory, &halves, sizeof(halves));
#elif defined(__aarch64__)
  vst1_u16(&memory->bits, vreinterpret_u16_f16(vcvt_f16_f32(x)));
#else
  for (int lane = 0; lane < kLanes; ++lane) convert(x[lane], memory[lane]);
#endif
}

// ---- arithmetic; the compiler itself has + - * / for vectors ----------------------------------------------

EK_INLINE Floats broadcast(float x) { return x - Floats{}; }

EK_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// Lane by lane the larger one; b if either is NaN.
EK_INLINE Floats maximum(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(kAll, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

EK_INLINE float highest(Floats x) {
  float result = x[0];
  for (int lane = 1; lane < kLanes; ++lane) result = result > x[lane] ? result : x[lane];
  return result;
}

EK_INLINE float sum(Floats x) {
  float part[kLanes];
  store(part, x);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) part[lane] += part[lane + width];
  }
  return part[0];
}

// exp(x) for x up to 44, within 1 ulp, with and without FMA. It is exactly 0 at -inf, NaN at NaN, and
// denormal where the exact result is. With n = round(x / ln 2) and r = x - n ln 2, exp(x) = 2^n (1 + r + r^2
// P(r)).
EK_INLINE Floats exponential(Floats x) {
  x = maximum(broadcast(-110.0f), x);
  // Adding 1.5 * 2^23 rounds to an integer and leaves n in the low bits. 127 is the bias of the exponent. The
  // power is 2^64 times too large, so that it is a normal number even where the result is denormal.
  const float magic = 12582912.0f + 127 + 64;
  const Floats shifted = multiply_add(x, broadcast(1.44269504089f), broadcast(magic));
  const Floats n = shifted - magic;
#if defined(__FMA__) || defined(__aarch64__)
  Floats r = multiply_add(n, broadcast(-0.69314718246f), x);
  r = multiply_add(n, broadcast(1.904654e-9f), r);
#else
  Floats r = x - n * 0.693359375f;  // exact: this part of ln 2 has 9 bits
  r = r + n * 2.12194440e-4f;
#endif
  Floats p = multiply_add(broadcast(1.9875691500e-4f), r, broadcast(1.3981999507e-3f));
  p = multiply_add(p, r, broadcast(8.3334519073e-3f));
  p = multiply_add(p, r, broadcast(4.1665795894e-2f));
  p = multiply_add(p, r, broadcast(1.6666665459e-1f));
  p = multiply_add(p, r, broadcast(5.0000001201e-1f));
  const Floats power = bit_cast<Floats>(bit_cast<Integers>(shifted) << 23);
  return (multiply_add(r * r, p, r) + 1.0f) * power * 0x1p-64f;
}

}  // namespace
}  // namespace electra_kernels
