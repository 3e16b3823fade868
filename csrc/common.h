// Definitions that the kernels of both devices share: element types, the log-sum-exp of a row in two parts,
// and arguments that both take.
//
// Kernel files include this header, and no header of torch or of the C++ standard library. The CPU kernels
// are compiled once per instruction-set level. The linker would merge an inline function that two levels
// define under one name, and could put AVX-512 code into the baseline. The functions here are in an anonymous
// namespace for the same reason. Whatever needs torch is in host.h, for the host functions (*_ops.cpp).

#pragma once

#include <stdint.h>

namespace electra_kernels {

// ---- element types ----------------------------------------------------------------------------------------

// Types of logits. A kernel's functions are indexed by them.
enum class Type { kFloat32, kBFloat16, kFloat16 };
constexpr int kTypes = 3;

// Types of tensors with one number per token. The floating-point types come first.
enum class Number { kFloat32, kBFloat16, kFloat16, kFloat64, kBool, kUint8, kInt32, kInt64 };

// Each vector.h converts these to and from float32. Both devices round to nearest even; the bits of a NaN
// differ: a CPU keeps the upper bits of its payload, a GPU writes 0x7fff.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// The byte of a bool. Some tensors that torch accepts as bool hold bytes other than 0 and 1.
struct Flag {
  uint8_t byte;
};

// ---- arguments --------------------------------------------------------------------------------------------

// The log-sum-exp of a row as maximum + log_sum. In one number, an offset that is common to all logits of the
// row would cost the digits of log_sum.
struct LogSumExp {
  float maximum, log_sum;
};

// A row in one slice of a vocabulary that is spread over ranks. The first three numbers leave out the banned
// token.
struct SliceSums {
  float maximum;       // NaN or +inf in a row that has one
  float total;         // sum of exp(x - maximum)
  float drawable;      // sum of exp((x - maximum) / temperature)
  float target_logit;  // -inf if another slice has the target
};

struct MaskingOptions {
  int64_t mask_token_id;
  int64_t vocab_size;
  double probability;
  double mask_fraction;
  double random_fraction;
};

namespace {

constexpr bool is_floating(Number type) { return type <= Number::kFloat64; }

// A denominator of 0 means that nothing was counted: loss and gradient are 0 then.
constexpr double reciprocal_or_zero(double denominator) { return denominator != 0 ? 1 / denominator : 0; }

}  // namespace
}  // namespace electra_kernels
