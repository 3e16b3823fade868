// electra_kernels_cpp::linear_masked_bce and its gradient: see electra_kernels/ops/rtd_head.py.

#include "rows_host.h"
#include "tokens_host.h"

namespace electra_kernels {
namespace {

// Rows of a block, which one thread sums up. Depends only on the number of rows, so the summation order never
// changes with the number of threads.
int64_t block_rows(int64_t count) {
  const int64_t rows = (count / 256 + kRowGroup) / kRowGroup * kRowGroup;
  return std::min(kTile, std::max<int64_t>(64, rows));
}

// A small tensor as floats [numel].
std::vector<float> as_floats(const BceKernels& kernels, const Tensor& tensor) {
  std::vector<float> numbers(tensor.numel());
  kernels.as_floats(Strided(tensor).elements(), 0, tensor.numel(), numbers.data());
  return numbers;
}

// Sums over each block of rows and, if asked for, its part of the gradient of the weight.
struct Blocks {
  Blocks(int64_t count, int64_t size, bool has_gradients)
      : rows(block_rows(count)),
        sums((count + rows - 1) / rows),
        gradients(has_gradients ? sums.size() * size : 0) {}
  float* gradient(int64_t block, int64_t size) {
    return gradients.empty() ? nullptr : gradients.data() + block * size;
  }

  int64_t rows;
  std::vector<TokenSums> sums;
  std::vector<float> gradients;  // [blocks, size]
};

// Calls body(block, hidden rows, scratch) for every block of rows.
template <typename Body>
void for_blocks(Blocks& blocks, const Rows& rows, const Body& body) {
  for_rows(static_cast<int64_t>(blocks.sums.size()), blocks.rows * (rows.size + 1),
           [&](int64_t first, int64_t last) {
             const Scratch scratch(head_scratch_floats(rows.size));
             std::vector<const void*> pointers(blocks.rows);
             for (int64_t i = first; i < last; ++i) {
               const int64_t start = i * blocks.rows;
               const int64_t count = std::min(blocks.rows, rows.count - start);
               for (int64_t r = 0; r < count; ++r) pointers[r] = rows[start + r];
               body(i, HiddenRows{pointers.data(), rows.stride, rows.size, start, count}, scratch.get());
             }
           });
}

// The gradient of the weight [size]: adds up the blocks in their order, in float64.
std::vector<float> total_gradient(const Blocks& blocks, int64_t size) {
  std::vector<double> totals(size, 0.0);
  for (size_t start = 0; start < blocks.gradients.size(); start += size) {
    for (int64_t h = 0; h < size; ++h) totals[h] += blocks.gradients[start + h];
  }
  return {totals.begin(), totals.end()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> linear_masked_bce(
    const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& labels,
    const std::optional<Tensor>& mask, const std::optional<Tensor>& pos_weight,
    const std::optional<Tensor>& normalizer, double label_smoothing, const std::string& reduction,
    bool needs_parameter_gradients, int64_t level) {
  const BceKernels& bce = level_at(level).bce;
  const auto forward = for_type(level_at(level).rtd_head.forward, hidden);
  const StridedTerms strided_terms(labels, mask, pos_weight, label_smoothing);
  const Terms terms = strided_terms.terms();
  const Rows rows = rows_of(hidden);
  const std::vector<float> weights = as_floats(bce, weight);
  const float offset = bias ? as_floats(bce, *bias)[0] : 0;
  const bool is_per_token = reduction == "none";

  Tensor logits = empty_like(labels, ScalarType::Float);
  Tensor loss =
      is_per_token ? empty_like(labels, ScalarType::Float) : scalar_like(labels, ScalarType::Float, 0.0f);
  float* const x = logits.mutable_data_ptr<float>();
  float* const losses = loss.mutable_data_ptr<float>();
  Blocks blocks(labels.numel(), rows.size, needs_parameter_gradients && !is_per_token);
  for_blocks(blocks, rows, [&](int64_t i, const HiddenRows& block, float* scratch) {
    forward(block, weights.data(), offset, terms, scratch, x + block.first,
            is_per_token ? losses + block.first : nullptr, blocks.gradient(i, rows.size), blocks.sums[i]);
  });
  const TokenSums sums = total(blocks.sums);
  STD_TORCH_CHECK(!sums.has_bad_label, "labels out of range");
  const double denominator = denominator_of(sums, normalizer, reduction);
  if (!is_per_token) *losses = static_cast<float>(sums.loss * reciprocal_or_zero(denominator));

  const std::vector<float> gradient = total_gradient(blocks, rows.size);
  Tensor grad_weight = empty_like(weight, ScalarType::Float);
  std::copy(gradient.begin(), gradient.end(), grad_weight.mutable_data_ptr<float>());
  const float grad_bias = blocks.gradients.empty() ? 0 : static_cast<float>(sums.gradient);
  return {loss,
          logits,
          counts_like(labels, sums),
          scalar_like(labels, ScalarType::Double, denominator),
          grad_weight,
          scalar_like(labels, ScalarType::Float, grad_bias)};
}

// numbers * factor as a tensor of the weight's dtype.
Tensor parameter_gradient(const RtdHeadKernels& kernels, const Tensor& weight,
                          torch::headeronly::IntHeaderOnlyArrayRef sizes, const float* numbers,
                          float factor) {
  Tensor gradient = torch::stable::new_empty(weight, sizes, weight.scalar_type());
  for_type(kernels.scaled, weight)(numbers, factor, gradient.numel(), gradient.mutable_data_ptr());
  return gradient;
}

std::tuple<Tensor, Tensor, Tensor> linear_masked_bce_backward(
    const Tensor& grad_loss, const Tensor& hidden, const Tensor& weight, const Tensor& logits,
    const Tensor& labels, const std::optional<Tensor>& mask, const std::optional<Tensor>& pos_weight,
    const Tensor& denominator, const Tensor& grad_weight, const Tensor& grad_bias, double label_smoothing,
    const std::string& reduction, int64_t level) {
  const RtdHeadKernels& kernels = level_at(level).rtd_head;
  const auto backward = for_type(kernels.backward, hidden);
  const StridedTerms strided_terms(labels, mask, pos_weight, label_smoothing);
  const bool is_per_token = reduction == "none";
  const StridedUpstream strided_upstream(grad_loss, denominator, is_per_token);
  const Terms terms = strided_terms.terms();
  const Upstream upstream = strided_upstream.upstream();
  const Rows rows = rows_of(hidden);
  const std::vector<float> weights = as_floats(level_at(level).bce, weight);
  const Tensor packed_logits = packed(logits);
  const float* const x = packed_logits.const_data_ptr<float>();

  Tensor grad_hidden = new_like(hidden);
  char* const out = static_cast<char*>(grad_hidden.mutable_data_ptr());
  const int64_t row_bytes = rows.size * element_size(hidden);
  Blocks blocks(labels.numel(), rows.size, is_per_token);
  for_blocks(blocks, rows, [&](int64_t i, const HiddenRows& block, float* scratch) {
    backward(block, weights.data(), x + block.first, terms, upstream, scratch, out + block.first * row_bytes,
             blocks.gradient(i, rows.size), blocks.sums[i]);
  });
  if (is_per_token) {
    const float bias_gradient = static_cast<float>(total(blocks.sums).gradient);
    return {grad_hidden,
            parameter_gradient(kernels, weight, weight.sizes(), total_gradient(blocks, rows.size).data(), 1),
            parameter_gradient(kernels, weight, {}, &bias_gradient, 1)};
  }
  const float factor = strided_upstream.factor();
  return {grad_hidden,
          parameter_gradient(kernels, weight, weight.sizes(), packed(grad_weight).const_data_ptr<float>(),
                             factor),
          parameter_gradient(kernels, weight, {}, grad_bias.const_data_ptr<float>(), factor)};
}

}  // namespace
}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CPU, library) {
  library.impl("linear_masked_bce", TORCH_BOX(&electra_kernels::linear_masked_bce));
  library.impl("linear_masked_bce_backward", TORCH_BOX(&electra_kernels::linear_masked_bce_backward));
}
