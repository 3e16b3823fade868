// electra_kernels_cuda::linear_masked_bce and its gradient: see electra_kernels/ops/rtd_head.py.

#include "tokens_host.h"

namespace electra_kernels {
namespace {

// A tensor of at most one dimension.
Numbers vector_of(const Tensor& tensor) {
  return {tensor.const_data_ptr(), number_of(tensor), {tensor.dim() == 0 ? 1 : tensor.stride(0)}};
}

// Whether every row begins at a 16-byte boundary and is made of whole vectors of 16 bytes.
bool is_vectored(const Tensor& hidden, const TokenBatch& batch) {
  const Numbers& rows = batch.tensors[kHidden];
  const int64_t each = rows.type == Number::kFloat32 ? 4 : 8, last = hidden.dim() - 1;
  bool result = hidden.stride(last) == 1 && hidden.size(last) % each == 0 &&
                reinterpret_cast<uintptr_t>(rows.data) % 16 == 0;
  for (int d = 0; d < batch.dimensions; ++d) result &= rows.strides[d] % each == 0;
  return result;
}

// The hidden states are taken from `tokens`, which may hold a copy of them.
HeadRows rows_of(const Tokens& tokens, const Tensor& weight, const std::optional<Tensor>& bias) {
  HeadRows rows = {weight.size(0), 1, false, vector_of(weight), {}};
  if (bias) rows.bias = vector_of(*bias);
  if (const auto& hidden = tokens.tensors[kHidden]) {
    rows.stride = hidden->stride(hidden->dim() - 1);
    rows.is_vectored = is_vectored(*hidden, tokens.batch);
  }
  return rows;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> linear_masked_bce(
    const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& labels,
    const std::optional<Tensor>& mask, const std::optional<Tensor>& pos_weight,
    const std::optional<Tensor>& normalizer, double label_smoothing, const std::string& reduction,
    bool needs_parameter_gradients) {
  const OnDevice device(hidden);
  const Tokens tokens(labels, {labels, mask, pos_weight, std::nullopt, std::nullopt, hidden},
                      label_smoothing);
  const bool is_per_token = reduction == "none";
  const int blocks = head_blocks(labels.numel());
  Tensor logits = empty_like(labels, ScalarType::Float);
  Tensor loss = is_per_token ? empty_like(labels, ScalarType::Float)
                             : torch::stable::new_empty(labels, {}, ScalarType::Float);
  Tensor grad_weight = empty_like(weight, ScalarType::Float);
  Tensor grad_bias = torch::stable::new_empty(weight, {}, ScalarType::Float);
  std::optional<Tensor> weight_partials;
  if (needs_parameter_gradients && !is_per_token) {
    weight_partials = torch::stable::new_empty(weight, {blocks, weight.size(0)}, ScalarType::Float);
  }
  float* const losses = loss.mutable_data_ptr<float>();
  TotalTensors sums(labels, blocks, reduction == "mean", normalizer);
  if (!is_per_token) sums.totals.loss = losses;
  sums.totals.bias_gradient = parameters_of(grad_bias);
  const HeadOutputs out = {logits.mutable_data_ptr<float>(), is_per_token ? losses : nullptr,
                           weight_partials ? weight_partials->mutable_data_ptr<float>() : nullptr,
                           parameters_of(grad_weight)};
  head_forward(tokens.batch, rows_of(tokens, weight, bias), out, sums.totals, device.stream);
  return {loss, logits, sums.counts, sums.denominator, grad_weight, grad_bias};
}

// The gradients of weight and bias for a loss per token.
void sum_parameter_gradients(const Tensor& hidden, const Tensor& weight, const Roles& roles,
                             const UpstreamScale& scale, double label_smoothing, Tensor& grad_weight,
                             Tensor& grad_bias, cudaStream_t stream) {
  Roles with_hidden = roles;
  with_hidden[kHidden] = hidden;
  const Tensor& labels = *roles[kLabels];
  const Tokens tokens(labels, with_hidden, label_smoothing);
  const int blocks = head_blocks(labels.numel());
  Tensor weight_partials = torch::stable::new_empty(weight, {blocks, weight.size(0)}, ScalarType::Float);
  Tensor partials = torch::stable::new_empty(weight, {kTokenSums, blocks}, ScalarType::Double);
  TokenTotals totals = {};
  totals.partials = partials.mutable_data_ptr<double>();
  totals.blocks = blocks;
  totals.bias_gradient = parameters_of(grad_bias);
  const HeadOutputs out = {nullptr, nullptr, weight_partials.mutable_data_ptr<float>(),
                           parameters_of(grad_weight)};
  head_parameter_gradients(tokens.batch, rows_of(tokens, weight, std::nullopt), scale, out, totals, stream);
}

std::tuple<Tensor, Tensor, Tensor> linear_masked_bce_backward(
    const Tensor& grad_loss, const Tensor& hidden, const Tensor& weight, const Tensor& logits,
    const Tensor& labels, const std::optional<Tensor>& mask, const std::optional<Tensor>& pos_weight,
    const Tensor& denominator, const Tensor& weight_sum, const Tensor& bias_sum, double label_smoothing,
    const std::string& reduction) {
  const OnDevice device(hidden);
  const bool is_per_token = reduction == "none";
  const Roles roles = {labels, mask, pos_weight, logits, per_token(grad_loss, is_per_token)};
  const Tokens tokens(labels, roles, label_smoothing);
  const UpstreamScale scale = scale_of(grad_loss, denominator, is_per_token);
  Tensor grad_hidden = empty_like(hidden, hidden.scalar_type());
  Tensor grad_weight = empty_like(weight, weight.scalar_type());
  Tensor grad_bias = torch::stable::new_empty(weight, {}, weight.scalar_type());
  const Tensor packed_sum = packed(weight_sum);
  ScaledSums sums = {};
  if (!is_per_token) {
    sums = {packed_sum.const_data_ptr<float>(), bias_sum.const_data_ptr<float>(), parameters_of(grad_weight),
            parameters_of(grad_bias)};
  }
  head_backward(tokens.batch, rows_of(tokens, weight, std::nullopt), scale, parameters_of(grad_hidden), sums,
                device.stream);
  if (is_per_token) {
    sum_parameter_gradients(hidden, weight, roles, scale, label_smoothing, grad_weight, grad_bias,
                            device.stream);
  }
  return {grad_hidden, grad_weight, grad_bias};
}

}  // namespace
}  // namespace electra_kernels

EK_LIBRARY_IMPL(library) {
  library.impl("linear_masked_bce", TORCH_BOX(&electra_kernels::linear_masked_bce));
  library.impl("linear_masked_bce_backward", TORCH_BOX(&electra_kernels::linear_masked_bce_backward));
}
