// The binary cross-entropy with one token per lane, which the loss on logits and the linear head share.
//
// For a token with logit x, smoothed label y, positive weight p and mask weight m:
//
//     loss = m (p y softplus(-x) + (1 - y) softplus(x))    d/dx = m ((1 - y) sigmoid(x) - p y sigmoid(-x))
//
// Both need a single exponential, exp(-|x|).

#pragma once

#include "kernels.h"
#include "vector.h"

namespace electra_kernels {
namespace {

// ---- numbers of any type and strides as floats ------------------------------------------------------------

template <typename T>
EK_INLINE float number(T x) {
  return static_cast<float>(x);
}
EK_INLINE float number(BFloat16 x) { return to_float(x); }
EK_INLINE float number(Float16 x) { return to_float(x); }
EK_INLINE float number(Flag x) { return x.byte != 0; }
// A label outside of [0, 1] must stay outside when it is rounded, so that it is refused.
EK_INLINE float number(double x) {
  const float rounded = static_cast<float>(x);
  return x > 1 && rounded == 1 ? 1 + 0x1p-23f : x < 0 && rounded == 0 ? -0x1p-126f : rounded;
}

template <typename T>
inline void load_run(const T* __restrict data, int64_t stride, int64_t count, float* __restrict out) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) out[i] = number(data[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = number(data[i * stride]);
  }
}

inline void load_run(const Float16* __restrict data, int64_t stride, int64_t count, float* __restrict out) {
  const int64_t whole = stride == 1 ? count / kLanes * kLanes : 0;
  for (int64_t i = 0; i < whole; i += kLanes) store(out + i, load(data + i));
  for (int64_t i = whole; i < count; ++i) out[i] = number(data[i * stride]);
}

template <typename T>
inline void load_as(const Elements& elements, int64_t first, int64_t count, float* out) {
  const T* data = static_cast<const T*>(elements.data);
  const int inner = elements.dimensions - 1;
  if (inner == 0) return load_run(data + first * elements.strides[0], elements.strides[0], count, out);
  int64_t index[64];
  for (int d = inner; d >= 0; --d) {
    index[d] = first % elements.sizes[d];
    first /= elements.sizes[d];
    data += index[d] * elements.strides[d];
  }
  while (count > 0) {
    const int64_t left = elements.sizes[inner] - index[inner];
    const int64_t run = left < count ? left : count;
    load_run(data, elements.strides[inner], run, out);
    out += run;
    count -= run;
    data += run * elements.strides[inner];
    index[inner] += run;
    for (int d = inner; d > 0 && index[d] == elements.sizes[d]; --d) {
      data += elements.strides[d - 1] - index[d] * elements.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

inline void load_elements(const Elements& elements, int64_t first, int64_t count, float* out) {
  if (elements.data == nullptr) {
    for (int64_t i = 0; i < count; ++i) out[i] = 1;
    return;
  }
  switch (elements.type) {
    case Number::kFloat32:
      return load_as<float>(elements, first, count, out);
    case Number::kBFloat16:
      return load_as<BFloat16>(elements, first, count, out);
    case Number::kFloat16:
      return load_as<Float16>(elements, first, count, out);
    case Number::kFloat64:
      return load_as<double>(elements, first, count, out);
    case Number::kBool:
      return load_as<Flag>(elements, first, count, out);
    case Number::kUint8:
      return load_as<uint8_t>(elements, first, count, out);
    case Number::kInt32:
      return load_as<int32_t>(elements, first, count, out);
    case Number::kInt64:
      return load_as<int64_t>(elements, first, count, out);
  }
}

// ---- a tile of tokens -------------------------------------------------------------------------------------

using Choices = int32_t __attribute__((vector_size(4 * kLanes)));  // -1 or 0, as comparisons give

constexpr int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Up to kTile tokens, padded to a whole vector with tokens whose mask is not set. A tensor that is not given
// stays 1. Padding overwrites that 1, so a tile that is not full must be the last one that is loaded.
struct TermTile {
  TermTile() {
    for (int64_t i = 0; i < kTile; ++i) mask[i] = positive_weight[i] = 1;
  }
  alignas(64) float labels[kTile];
  alignas(64) float mask[kTile];
  alignas(64) float positive_weight[kTile];
};

inline void load_terms(const Terms& terms, int64_t first, int64_t count, TermTile& tile) {
  load_elements(terms.labels, first, count, tile.labels);
  if (terms.mask.data != nullptr) load_elements(terms.mask, first, count, tile.mask);
  if (terms.positive_weight.data != nullptr) {
    load_elements(terms.positive_weight, first, count, tile.positive_weight);
  }
  for (int64_t i = count; i < padded(count); ++i) tile.labels[i] = tile.mask[i] = tile.positive_weight[i] = 0;
}

// The factors of softplus(-x) and softplus(x), and the weight of the token.
struct Token {
  Floats positive, negative, weight;
  Choices is_counted, is_positive, is_bad;
};

// How the numbers of labels and mask are interpreted.
struct Reading {
  explicit Reading(const Terms& terms)
      : ignored(broadcast(is_floating(terms.labels.type) ? __builtin_nanf("") : -100.0f)),
        keep(broadcast(1 - terms.label_smoothing)),
        spread(broadcast(0.5f * terms.label_smoothing)),
        mask_is_flag(Choices{} - (terms.mask.data != nullptr && !is_floating(terms.mask.type))) {}
  Floats ignored;  // the label that is ignored; NaN, which equals no label, if none is
  Floats keep, spread;
  Choices mask_is_flag;
};

EK_INLINE Token token_at(const TermTile& tile, int64_t i, const Reading& reading) {
  Token token;
  Floats label = load(tile.labels + i);
  Floats weight = load(tile.mask + i);
  weight = (weight != 0.0f) & reading.mask_is_flag ? broadcast(1) : weight;
  weight = label == reading.ignored ? Floats{} : weight;
  token.weight = weight;
  token.is_counted = weight != 0.0f;
  token.is_bad = token.is_counted & ~((label >= 0.0f) & (label <= 1.0f));
  label = token.is_counted ? label : Floats{};
  token.is_positive = label > 0.5f;
  const Floats smoothed = label * reading.keep + reading.spread;
  token.positive = smoothed * load(tile.positive_weight + i);
  token.negative = 1.0f - smoothed;
  return token;
}

EK_INLINE Floats absolute(Floats x) { return bit_cast<Floats>(bit_cast<Integers>(x) & 0x7fffffffu); }

// log(1 + x) = 2 artanh(s) with s = x / (2 + x), for x in [0, 1], within 2 ulp.
EK_INLINE Floats log_one_plus(Floats x) {
  const Floats s = x / (2.0f + x);
  const Floats square = s * s;
  Floats p = multiply_add(broadcast(2.4289557338e-1f), square, broadcast(2.1430741251e-1f));
  p = multiply_add(p, square, broadcast(2.8616595268e-1f));
  p = multiply_add(p, square, broadcast(3.9998888969e-1f));
  p = multiply_add(p, square, broadcast(6.6666674614e-1f));
  return multiply_add(s * square, p, s + s);
}

// rest = log(1 + exp(-|x|)). A factor of 0 gives 0 even if the softplus is infinite, and so does a mask that
// is not set, whatever the logit.
EK_INLINE Floats token_loss(const Token& token, Floats x, Floats rest) {
  const Floats positive = token.positive * (maximum(-x, Floats{}) + rest);
  const Floats negative = token.negative * (maximum(x, Floats{}) + rest);
  Floats loss =
      (token.positive != 0.0f ? positive : Floats{}) + (token.negative != 0.0f ? negative : Floats{});
  loss = x == x ? loss : x;
  return token.is_counted ? loss * token.weight : Floats{};
}

// decay = exp(-|x|).
EK_INLINE Floats token_gradient(const Token& token, Floats x, Floats decay) {
  const Floats high = 1.0f / (1.0f + decay);
  const Floats low = decay * high;
  const Choices is_high = x >= 0.0f;
  const Floats gradient = token.negative * (is_high ? high : low) - token.positive * (is_high ? low : high);
  return token.is_counted ? gradient * token.weight : Floats{};
}

constexpr int kChains = 4;  // independent sums

inline bool has_weights(const Terms& terms) {
  return terms.mask.data != nullptr && is_floating(terms.mask.type);
}

// The sum of the counted weights, in float64.
inline double total_weight(const TermTile& tile, int64_t count, const Reading& reading) {
  double chains[kLanes] = {};
  for (int64_t i = 0; i < padded(count); i += kLanes) {
    const Floats weight = token_at(tile, i, reading).weight;
    for (int lane = 0; lane < kLanes; ++lane) chains[lane] += weight[lane];
  }
  double total = 0;
  for (const double chain : chains) total += chain;
  return total;
}

// Sums over a tile, one per lane.
struct LaneSums {
  Floats loss = {}, gradient = {};
  // Counts, negated: comparisons give -1.
  Choices counted = {}, predicted = {}, positive = {}, both = {}, bad = {};
};

EK_INLINE void count(const Token& token, Floats x, LaneSums& sums) {
  const Choices predicted = (x > 0.0f) & token.is_counted;
  sums.counted += token.is_counted;
  sums.predicted += predicted;
  sums.positive += token.is_positive;
  sums.both += predicted & token.is_positive;
  sums.bad |= token.is_bad;
}

EK_INLINE int64_t counted(Choices lanes) {
  int64_t total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total -= lanes[lane];
  return total;
}

// Adds the sums of all lanes. Returns how many tokens were counted.
inline int64_t add(const LaneSums& lanes, TokenSums& sums) {
  const int64_t total = counted(lanes.counted), predicted = counted(lanes.predicted);
  const int64_t positive = counted(lanes.positive), both = counted(lanes.both);
  sums.loss += sum(lanes.loss);
  sums.gradient += sum(lanes.gradient);
  sums.true_positives += both;
  sums.false_positives += predicted - both;
  sums.false_negatives += positive - both;
  sums.true_negatives += total - predicted - positive + both;
  sums.has_bad_label |= counted(lanes.bad) != 0;
  return total;
}

}  // namespace
}  // namespace electra_kernels
