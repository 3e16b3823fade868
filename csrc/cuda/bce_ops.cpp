// electra_kernels_cuda::masked_bce_with_logits and its gradient: see electra_kernels/ops/bce.py.

#include "tokens_host.h"

namespace electra_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> masked_bce_with_logits(const Tensor& logits, const Tensor& labels,
                                                          const std::optional<Tensor>& mask,
                                                          const std::optional<Tensor>& pos_weight,
                                                          const std::optional<Tensor>& normalizer,
                                                          double label_smoothing,
                                                          const std::string& reduction) {
  const OnDevice device(logits);
  const Tokens tokens(logits, {labels, mask, pos_weight, logits}, label_smoothing);
  const bool is_per_token = reduction == "none";
  Tensor loss = is_per_token ? empty_like(logits, ScalarType::Float)
                             : torch::stable::new_empty(logits, {}, ScalarType::Float);
  float* const losses = loss.mutable_data_ptr<float>();
  TotalTensors sums(logits, bce_blocks(logits.numel()), reduction == "mean", normalizer);
  if (!is_per_token) sums.totals.loss = losses;
  bce_forward(tokens.batch, is_per_token ? losses : nullptr, sums.totals, device.stream);
  return {loss, sums.counts, sums.denominator};
}

Tensor masked_bce_with_logits_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& labels,
                                       const std::optional<Tensor>& mask,
                                       const std::optional<Tensor>& pos_weight, const Tensor& denominator,
                                       double label_smoothing) {
  const OnDevice device(logits);
  const bool is_per_token = grad_loss.dim() > 0;
  const Tokens tokens(logits, {labels, mask, pos_weight, logits, per_token(grad_loss, is_per_token)},
                      label_smoothing);
  Tensor gradient = empty_like(logits, logits.scalar_type());
  bce_backward(tokens.batch, scale_of(grad_loss, denominator, is_per_token), gradient.mutable_data_ptr(),
               device.stream);
  return gradient;
}

}  // namespace
}  // namespace electra_kernels

EK_LIBRARY_IMPL(library) {
  library.impl("masked_bce_with_logits", TORCH_BOX(&electra_kernels::masked_bce_with_logits));
  library.impl("masked_bce_with_logits_backward",
               TORCH_BOX(&electra_kernels::masked_bce_with_logits_backward));
}
