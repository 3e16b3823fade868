// The binary cross-entropy of a token, which the loss on logits and the linear head share, and sums over
// tokens.
//
// For a token with logit x, smoothed label y, positive weight p and mask weight m:
//
//     loss = m (p y softplus(-x) + (1 - y) softplus(x))    d/dx = m ((1 - y) sigmoid(x) - p y sigmoid(-x))
//
// Both need a single exponential, exp(-|x|). Each block writes one number per sum, and a second kernel adds
// up these numbers in a fixed order. There are no atomics, so every run gives the same bits.

#pragma once

#include "vector.h"

namespace electra_kernels {

// ---- numbers of any type and strides as floats ------------------------------------------------------------

template <typename T>
__device__ inline float number(T x) {
  return static_cast<float>(x);
}
__device__ inline float number(BFloat16 x) { return to_float(x); }
__device__ inline float number(Float16 x) { return to_float(x); }
__device__ inline float number(Flag x) { return x.byte != 0; }

// Returns body(T()) with the type of the numbers.
template <typename Body>
__device__ auto with_type(Number type, const Body& body) {
  switch (type) {
    case Number::kFloat32:
      return body(float());
    case Number::kBFloat16:
      return body(BFloat16());
    case Number::kFloat16:
      return body(Float16());
    case Number::kFloat64:
      return body(double());
    case Number::kBool:
      return body(Flag());
    case Number::kUint8:
      return body(uint8_t());
    case Number::kInt32:
      return body(int32_t());
    default:
      return body(int64_t());
  }
}

// The same for the types of logits, hidden states and parameters only.
template <typename Body>
__device__ auto with_float_type(Number type, const Body& body) {
  switch (type) {
    case Number::kFloat32:
      return body(float());
    case Number::kBFloat16:
      return body(BFloat16());
    default:
      return body(Float16());
  }
}

__device__ inline uint2 load8(const void* memory) {
#if defined(EK_FIBERS)
  fibers::check_alignment<uint2>(memory, __LINE__);
#endif
  return *static_cast<const uint2*>(memory);
}

template <typename T>
__device__ inline void unpack(uint4 bits, float* out) {
  T numbers[16 / sizeof(T)];
  memcpy(numbers, &bits, sizeof(bits));
  EK_UNROLL
  for (int i = 0; i < static_cast<int>(16 / sizeof(T)); ++i) out[i] = number(numbers[i]);
}

// N numbers at an address that is a multiple of 16 bytes, or of 8 if the numbers have only 8 bytes.
template <typename T, int N>
__device__ inline void load_together(const T* data, float (&out)[N]) {
  if constexpr (sizeof(T) * N == 8) {
    T numbers[N];
    const uint2 bits = load8(data);
    memcpy(numbers, &bits, sizeof(bits));
    EK_UNROLL
    for (int i = 0; i < N; ++i) out[i] = number(numbers[i]);
  } else {
    constexpr int kEach = 16 / static_cast<int>(sizeof(T));
    EK_UNROLL
    for (int i = 0; i < N; i += kEach) unpack<T>(load16(data + i), out + i);
  }
}

// N numbers `stride` apart, of which `available` exist; the others become 0.
template <typename T, int N>
__device__ inline void load_run(const T* data, int64_t stride, int64_t available, float (&out)[N]) {
  constexpr int kBytes = static_cast<int>(sizeof(T)) * N;
  constexpr int kAlignment = kBytes < 16 ? kBytes : 16;
  const bool is_together = stride == 1 && EK_BOUND(memory_run_end, available >= N);
  if constexpr (kBytes >= 8) {
    if (is_together && EK_BOUND(memory_run_alignment, reinterpret_cast<uintptr_t>(data) % kAlignment == 0)) {
      return load_together(data, out);
    }
  }
  EK_UNROLL
  for (int i = 0; i < N; ++i)
    out[i] = EK_BOUND(memory_number_end, i < available) ? number(data[i * stride]) : 0;
}

// The same from `offset` on; the numbers of a tensor that is not given are 1.
template <int N>
__device__ inline void load_run(const Numbers& numbers, int64_t offset, int64_t stride, int64_t available,
                                float (&out)[N]) {
  if (numbers.data == nullptr) {
    EK_UNROLL
    for (int i = 0; i < N; ++i) out[i] = i < available ? 1 : 0;
    return;
  }
  with_type(numbers.type, [&](auto zero) {
    load_run(static_cast<const decltype(zero)*>(numbers.data) + offset, stride, available, out);
  });
}

// ---- tokens by their index --------------------------------------------------------------------------------

// a / b, by a 32-bit division where that is enough: a 64-bit one takes several times as long.
__device__ inline int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 31) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// Offsets of a token's numbers in each tensor, and how many tokens from this one on are evenly spaced.
struct Offsets {
  __device__ Offsets(const TokenBatch& batch, int64_t token) {
    int64_t index = token;
    available = batch.sizes[batch.dimensions - 1] - index;
    EK_ROLLED
    for (int d = batch.dimensions - 1; d > 0; --d) {
      const int64_t outer = quotient(index, batch.sizes[d]);
      const int64_t inner = index - outer * batch.sizes[d];
      if (d == batch.dimensions - 1) available = batch.sizes[d] - inner;
      EK_UNROLL
      for (int role = 0; role < kRoles; ++role) of[role] += inner * batch.tensors[role].strides[d];
      index = outer;
    }
    EK_UNROLL
    for (int role = 0; role < kRoles; ++role) of[role] += index * batch.tensors[role].strides[0];
  }

  int64_t of[kRoles] = {};
  int64_t available;
};

__device__ inline float number_at(const Numbers& numbers, int64_t offset) {
  if (numbers.data == nullptr) return 1;
  return with_type(numbers.type, [&](auto zero) {
    return number(static_cast<const decltype(zero)*>(numbers.data)[offset]);
  });
}

constexpr int kRun = 8;  // tokens that a thread handles together: 16 bytes of half precision

// The numbers of tokens [first, first + kRun) by their role, without hidden states; 0 past the last token.
struct Run {
  __device__ Run(const TokenBatch& batch, int64_t first) {
    const Offsets offsets(batch, first);
    if (batch.dimensions == 1 || EK_BOUND(memory_row_end, offsets.available >= kRun)) {
      EK_UNROLL
      for (int role = 0; role < kHidden; ++role) {
        load_run(batch.tensors[role], offsets.of[role], batch.tensors[role].strides[batch.dimensions - 1],
                 offsets.available, of[role]);
      }
      return;
    }
    EK_ROLLED
    for (int i = 0; i < kRun; ++i) {
      const bool is_inside = EK_BOUND(memory_last_row_end, first + i < batch.count);
      const Offsets own(batch, first + (is_inside ? i : 0));
      EK_UNROLL
      for (int role = 0; role < kHidden; ++role) {
        const float x = is_inside ? number_at(batch.tensors[role], own.of[role]) : 0;
        // `of[role][i]` has an index that is unknown at compile time, which would move the array from
        // registers to local memory.
        EK_UNROLL
        for (int j = 0; j < kRun; ++j) of[role][j] = j == i ? x : of[role][j];
      }
    }
  }

  float of[kHidden][kRun];
};

// ---- a token ----------------------------------------------------------------------------------------------

// The factors of softplus(-x) and softplus(x), and the weight of the token; a weight of 0 means that it is
// not counted.
struct Token {
  float positive = 0, negative = 0, weight = 0;
  bool is_positive = false;
};

__device__ inline Token token_of(const TokenBatch& batch, float label, float mask, float positive_weight) {
  Token token;
  token.weight = is_floating(batch.tensors[kMask].type) ? mask : mask != 0 ? 1 : 0;
  if (!is_floating(batch.tensors[kLabels].type) && label == -100) token.weight = 0;
  const bool is_counted = token.weight != 0;
  label = is_counted ? label : 0;
  token.is_positive = label > 0.5f;
  const float smoothed = label * (1 - batch.label_smoothing) + 0.5f * batch.label_smoothing;
  token.positive = smoothed * positive_weight;
  token.negative = 1 - smoothed;
  return token;
}

__device__ inline Token token_at(const TokenBatch& batch, const Offsets& offsets) {
  const auto number_of = [&](Role role) { return number_at(batch.tensors[role], offsets.of[role]); };
  return token_of(batch, number_of(kLabels), number_of(kMask), number_of(kPositiveWeight));
}

__device__ inline float decay_of(float x) { return expf(-fabsf(x)); }

// A factor of 0 gives 0 even if the softplus is infinite, a NaN gives NaN, and a mask that is not set gives 0
// whatever the logit.
__device__ inline float token_loss(const Token& token, float x, float decay) {
  const float rest = log1pf(decay);
  float loss = token.positive != 0 ? token.positive * ((x < 0 ? -x : 0) + rest) : 0;
  loss += token.negative != 0 ? token.negative * ((x > 0 ? x : 0) + rest) : 0;
  loss = x == x ? loss : x;
  return EK_BOUND(bce_masked_loss, token.weight != 0) ? loss * token.weight : 0;
}

__device__ inline float token_gradient(const Token& token, float x, float decay) {
  const float high = 1 / (1 + decay);
  const float low = decay * high;
  const float gradient = token.negative * (x < 0 ? low : high) - token.positive * (x < 0 ? high : low);
  return EK_BOUND(rtd_head_masked_slope, token.weight != 0) ? gradient * token.weight : 0;
}

__device__ inline float factor_of(const UpstreamScale& scale) {
  const double scalar = scale.scalar == nullptr ? 1 : *scale.scalar;
  return static_cast<float>(scalar * reciprocal_or_zero(*scale.denominator));
}

// The gradient of a token that is not counted is 0, even if its upstream gradient is not finite.
__device__ inline float scaled_gradient(const Token& token, float x, float upstream) {
  if (!EK_BOUND(bce_masked_upstream, token.weight != 0)) return 0;
  return token_gradient(token, x, decay_of(x)) * upstream;
}

// ---- sums -------------------------------------------------------------------------------------------------

// Sums over the tokens of one thread.
struct TokenSums {
  double loss = 0, weight = 0, gradient = 0;
  int counted = 0, predicted = 0, positive = 0, both = 0;
};

__device__ inline void count(const Token& token, float x, TokenSums& sums) {
  const bool is_counted = token.weight != 0, is_predicted = is_counted && x > 0;
  sums.weight += token.weight;
  sums.counted += is_counted;
  sums.predicted += is_predicted;
  sums.positive += token.is_positive;
  sums.both += is_predicted && token.is_positive;
}

// Adds up the threads' sums and writes them to column blockIdx.x of the partial sums.
template <int kWarps>
__device__ void store_sums(const TokenSums& sums, const TokenTotals& totals) {
  EK_SHARED(shared, double[kTokenSums][kWarps]);
  const double numbers[kTokenSums] = {
      reduce_warp(sums.loss, Sum()),
      reduce_warp(sums.weight, Sum()),
      reduce_warp(sums.gradient, Sum()),
      static_cast<double>(reduce_warp(sums.counted, Sum())),
      static_cast<double>(reduce_warp(sums.predicted, Sum())),
      static_cast<double>(reduce_warp(sums.positive, Sum())),
      static_cast<double>(reduce_warp(sums.both, Sum())),
  };
  EK_UNROLL
  for (int i = 0; i < kTokenSums; ++i) {
    if (lane() == 0) shared[i][warp()] = numbers[i];
  }
  EK_BARRIER(bce_sums_written);
  if (!EK_BOUND(bce_sums_end, threadIdx.x < kTokenSums)) return;
  double total = 0;
  for (int i = 0; i < kWarps; ++i) total += shared[threadIdx.x][i];
  totals.partials[threadIdx.x * totals.blocks + blockIdx.x] = total;
}

template <typename T>
__device__ inline void store_number(const Parameters& parameters, int64_t index, T x) {
  with_float_type(parameters.type, [&](auto zero) {
    convert(static_cast<float>(x), static_cast<decltype(zero)*>(parameters.data)[index]);
  });
}

// Each of the first kTokenSums warps of a block adds up one row of the partial sums; then the totals are
// written.
__device__ inline void join_sums(const TokenTotals& totals) {
  EK_SHARED(shared, double[kTokenSums]);
  if (EK_BOUND(rtd_head_sums_end, warp() < kTokenSums)) {
    const double* const row = totals.partials + warp() * totals.blocks;
    double total = 0;
    for (int i = lane(); i < totals.blocks; i += kWarp) total += row[i];
    total = reduce_warp(total, Sum());
    if (lane() == 0) shared[warp()] = total;
  }
  EK_BARRIER(bce_totals_written);
  if (threadIdx.x != 0) return;
  if (totals.bias_gradient.data != nullptr) store_number(totals.bias_gradient, 0, shared[2]);
  if (totals.counts == nullptr) return;
  const double counted = shared[3], predicted = shared[4], positive = shared[5], both = shared[6];
  totals.counts[0] = static_cast<int64_t>(both);
  totals.counts[1] = static_cast<int64_t>(predicted - both);
  totals.counts[2] = static_cast<int64_t>(positive - both);
  totals.counts[3] = static_cast<int64_t>(counted - predicted - positive + both);
  double denominator = 1;
  if (totals.is_mean) denominator = totals.normalizer == nullptr ? shared[1] : *totals.normalizer;
  *totals.denominator = denominator;
  if (totals.loss != nullptr) *totals.loss = static_cast<float>(shared[0] * reciprocal_or_zero(denominator));
}

}  // namespace electra_kernels
