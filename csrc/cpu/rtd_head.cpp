// The discriminator's last linear layer, fused with its loss and with the gradient of its weight.
//
// Hidden states are read from memory once. A group of rows gives its logits, and the logits give the slope of
// the loss. The rows, still in the cache, are multiplied by their slopes and added to the gradient of the
// weight. That is legal in the forward pass because "mean" and "sum" only scale this gradient, by a number
// that the backward knows. The backward then writes slope x weight and reads no hidden states. A loss per
// token has an upstream gradient per token: then the backward computes the gradient of the weight.

#include "tokens.h"

namespace electra_kernels {
namespace {

constexpr int64_t kRows = 4;  // rows that share a load of the weight
static_assert(kRowGroup % kRows == 0 && kRowGroup % kLanes == 0 && kTile % kRowGroup == 0, "whole groups");

// logits [kRows] = rows . weight, without bias.
template <typename T>
inline void dot_rows(const T* const* rows, const float* weight, int64_t size, float* logits) {
  Floats sums[kRows] = {};
  const int64_t whole = size / kLanes * kLanes;
  for (int64_t h = 0; h < whole; h += kLanes) {
    const Floats w = load(weight + h);
    for (int64_t r = 0; r < kRows; ++r) sums[r] = multiply_add(load(rows[r] + h), w, sums[r]);
  }
  for (int64_t r = 0; r < kRows; ++r) {
    logits[r] = sum(sums[r]);
    for (int64_t h = whole; h < size; ++h) logits[r] += to_float(rows[r][h]) * weight[h];
  }
}

// gradient [size] += slopes [count] x rows [count, size], in the order of the rows.
template <typename T>
inline void add_rows(const T* const* rows, const float* slopes, int64_t count, int64_t size,
                     float* gradient) {
  const int64_t whole = size / kLanes * kLanes;
  for (int64_t h = 0; h < whole; h += kLanes) {
    Floats total = load(gradient + h);
    for (int64_t r = 0; r < count; ++r) total = multiply_add(load(rows[r] + h), broadcast(slopes[r]), total);
    store(gradient + h, total);
  }
  for (int64_t h = whole; h < size; ++h) {
    for (int64_t r = 0; r < count; ++r) gradient[h] += to_float(rows[r][h]) * slopes[r];
  }
}

// Like add_rows, but skips rows of slope 0: they may hold NaN or infinity.
template <typename T>
inline void add_group(const T* const* rows, const float* slopes, int64_t count, int64_t size,
                      float* gradient) {
  const T* chosen[kRowGroup];
  float factors[kRowGroup];
  int64_t chosen_count = 0;
  for (int64_t r = 0; r < count; ++r) {
    if (slopes[r] == 0) continue;
    chosen[chosen_count] = rows[r];
    factors[chosen_count++] = slopes[r];
  }
  add_rows(chosen, factors, chosen_count, size, gradient);
}

// Calls body(rows, start, count) for each group of rows. Contiguous rows keep their type T; others are
// gathered as floats in the scratch memory. The last row of a group that is not full stands in for the
// missing ones.
template <typename T, typename Body>
inline void for_groups(const HiddenRows& hidden, float* scratch, const Body& body) {
  for (int64_t start = 0; start < hidden.count; start += kRowGroup) {
    const int64_t left = hidden.count - start;
    const int64_t count = left < kRowGroup ? left : kRowGroup;
    if (hidden.stride == 1) {
      const T* rows[kRowGroup];
      for (int64_t r = 0; r < kRowGroup; ++r) {
        rows[r] = static_cast<const T*>(hidden.rows[start + (r < count ? r : count - 1)]);
      }
      body(rows, start, count);
    } else {
      const float* rows[kRowGroup];
      for (int64_t r = 0; r < kRowGroup; ++r) {
        rows[r] = scratch + (r < count ? r : count - 1) * hidden.size;
        const T* const row = static_cast<const T*>(hidden.rows[start + (r < count ? r : count - 1)]);
        if (r < count) load_run(row, hidden.stride, hidden.size, scratch + r * hidden.size);
      }
      body(rows, start, count);
    }
  }
}

template <typename T>
void forward(const HiddenRows& hidden, const float* weight, float bias, const Terms& terms, float* scratch,
             float* logits, float* losses, float* weight_gradient, TokenSums& sums) {
  const Reading reading(terms);
  TermTile tile;
  load_terms(terms, hidden.first, hidden.count, tile);
  LaneSums lanes;
  for_groups<T>(hidden, scratch, [&](const auto* const* rows, int64_t start, int64_t count) {
    alignas(64) float x[kRowGroup] = {}, loss[kRowGroup], slopes[kRowGroup];
    for (int64_t r = 0; r < count; r += kRows) dot_rows(rows + r, weight, hidden.size, x + r);
    for (int64_t r = 0; r < count; ++r) logits[start + r] = x[r] += bias;
    for (int64_t r = 0; r < padded(count); r += kLanes) {
      const Token token = token_at(tile, start + r, reading);
      const Floats logit = load(x + r);
      const Floats decay = exponential(-absolute(logit));
      const Floats token_losses = token_loss(token, logit, log_one_plus(decay));
      const Floats token_slopes = token_gradient(token, logit, decay);
      electra_kernels::count(token, logit, lanes);
      lanes.loss += token_losses;
      lanes.gradient += token_slopes;
      store(loss + r, token_losses);
      store(slopes + r, token_slopes);
    }
    if (losses != nullptr) __builtin_memcpy(losses + start, loss, count * sizeof(float));
    if (weight_gradient != nullptr) add_group(rows, slopes, count, hidden.size, weight_gradient);
  });
  const int64_t counted = add(lanes, sums);
  sums.weight +=
      has_weights(terms) ? total_weight(tile, hidden.count, reading) : static_cast<double>(counted);
}

// out [size] = numbers [size] * factor
template <typename T>
inline void scale_into(const float* numbers, float factor, int64_t size, T* out) {
  const int64_t whole = size / kLanes * kLanes;
  for (int64_t h = 0; h < whole; h += kLanes) store(out + h, load(numbers + h) * factor);
  for (int64_t h = whole; h < size; ++h) convert(numbers[h] * factor, out[h]);
}

// Computes the slope of each token, upstream gradient included, and returns the sum of the slopes.
inline float load_slopes(const HiddenRows& hidden, const float* logits, const Terms& terms,
                         const Upstream& upstream, float* slopes) {
  const Reading reading(terms);
  TermTile tile;
  alignas(64) float x[kTile];
  load_terms(terms, hidden.first, hidden.count, tile);
  load_elements(upstream.numbers, hidden.first, hidden.count, slopes);
  __builtin_memcpy(x, logits, hidden.count * sizeof(float));
  for (int64_t i = hidden.count; i < padded(hidden.count); ++i) x[i] = slopes[i] = 0;
  Floats total = {};
  for (int64_t i = 0; i < padded(hidden.count); i += kLanes) {
    const Token token = token_at(tile, i, reading);
    const Floats logit = load(x + i);
    const Floats slope = token_gradient(token, logit, exponential(-absolute(logit)));
    const Floats scaled = slope * (load(slopes + i) * upstream.factor);
    const Floats result = token.is_counted ? scaled : Floats{};
    store(slopes + i, result);
    total += result;
  }
  return sum(total);
}

template <typename T>
void backward(const HiddenRows& hidden, const float* weight, const float* logits, const Terms& terms,
              const Upstream& upstream, float* scratch, void* gradient, float* weight_gradient,
              TokenSums& sums) {
  alignas(64) float slopes[kTile];
  sums.gradient += load_slopes(hidden, logits, terms, upstream, slopes);
  T* const out = static_cast<T*>(gradient);
  for (int64_t r = 0; r < hidden.count; ++r)
    scale_into(weight, slopes[r], hidden.size, out + r * hidden.size);
  if (weight_gradient == nullptr) return;
  for_groups<T>(hidden, scratch, [&](const auto* const* rows, int64_t start, int64_t count) {
    add_group(rows, slopes + start, count, hidden.size, weight_gradient);
  });
}

template <typename T>
void scaled(const float* numbers, float factor, int64_t size, void* out) {
  scale_into(numbers, factor, size, static_cast<T*>(out));
}

}  // namespace

const RtdHeadKernels EK_LEVEL::rtd_head = {
    {forward<float>, forward<BFloat16>, forward<Float16>},
    {backward<float>, backward<BFloat16>, backward<Float16>},
    {scaled<float>, scaled<BFloat16>, scaled<Float16>},
};

}  // namespace electra_kernels
