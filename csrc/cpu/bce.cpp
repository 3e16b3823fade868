// Masked binary cross-entropy on logits: loss, weight and confusion counts in one pass, the gradient in
// another.
//
// Each pass reads a token's logit, label, mask and weight once, with their own dtypes and strides, where a
// chain of torch's operations would write and read a tensor for each step. Tokens are independent, so they
// are handled in tiles that stay in the first-level cache, where numbers of any dtype become floats.

#include "tokens.h"

namespace electra_kernels {
namespace {

void forward(const Elements& logits, const Terms& terms, int64_t first, int64_t count, float* losses,
             TokenSums& sums) {
  const Reading reading(terms);
  TermTile tile;
  alignas(64) float x[kTile], rest[kTile];
  for (int64_t start = 0; start < count; start += kTile) {
    const int64_t size = start + kTile < count ? kTile : count - start;
    load_terms(terms, first + start, size, tile);
    load_elements(logits, first + start, size, x);
    for (int64_t i = size; i < padded(size); ++i) x[i] = 0;
    // Each chain of dependent operations has its own short loop, so that several iterations are in flight.
    for (int64_t i = 0; i < padded(size); i += kLanes) store(rest + i, exponential(-absolute(load(x + i))));
    for (int64_t i = 0; i < padded(size); i += kLanes) store(rest + i, log_one_plus(load(rest + i)));
    LaneSums lanes;
    Floats chains[kChains] = {};
    for (int64_t i = 0; i < padded(size); i += kLanes) {
      const Token token = token_at(tile, i, reading);
      const Floats logit = load(x + i);
      const Floats loss = token_loss(token, logit, load(rest + i));
      electra_kernels::count(token, logit, lanes);
      chains[i / kLanes % kChains] += loss;
      if (losses != nullptr) store(x + i, loss);
    }
    lanes.loss = (chains[0] + chains[1]) + (chains[2] + chains[3]);
    const int64_t counted = add(lanes, sums);
    sums.weight += has_weights(terms) ? total_weight(tile, size, reading) : static_cast<double>(counted);
    if (losses != nullptr) __builtin_memcpy(losses + start, x, size * sizeof(float));
  }
}

template <typename T>
void backward(const Elements& logits, const Terms& terms, const Upstream& upstream, int64_t first,
              int64_t count, void* gradient) {
  const Reading reading(terms);
  T* const out = static_cast<T*>(gradient);
  TermTile tile;
  alignas(64) float x[kTile], decay[kTile], factors[kTile];
  for (int64_t start = 0; start < count; start += kTile) {
    const int64_t size = start + kTile < count ? kTile : count - start;
    load_terms(terms, first + start, size, tile);
    load_elements(logits, first + start, size, x);
    if (start == 0 || upstream.numbers.data != nullptr) {
      load_elements(upstream.numbers, first + start, size, factors);
    }
    for (int64_t i = size; i < padded(size); ++i) x[i] = factors[i] = 0;
    for (int64_t i = 0; i < padded(size); i += kLanes) store(decay + i, exponential(-absolute(load(x + i))));
    for (int64_t i = 0; i < padded(size); i += kLanes) {
      const Token token = token_at(tile, i, reading);
      const Floats logit = load(x + i);
      const Floats slope = token_gradient(token, logit, load(decay + i));
      const Floats scaled = slope * (load(factors + i) * upstream.factor);
      const Floats result = token.is_counted ? scaled : Floats{};
      if (i + kLanes <= size) {
        store(out + start + i, result);
      } else {
        for (int64_t lane = 0; i + lane < size; ++lane) convert(result[lane], out[start + i + lane]);
      }
    }
  }
}

}  // namespace

const BceKernels EK_LEVEL::bce = {
    load_elements, forward, {backward<float>, backward<BFloat16>, backward<Float16>}};

}  // namespace electra_kernels
