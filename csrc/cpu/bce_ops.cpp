// electra_kernels_cpp::masked_bce_with_logits and its gradient: see electra_kernels/ops/bce.py.

#include "tokens_host.h"

namespace electra_kernels {
namespace {

constexpr int64_t kBlock = 8 * kTile;  // tokens that one thread sums up

std::tuple<Tensor, Tensor, Tensor> masked_bce_with_logits(const Tensor& logits, const Tensor& labels,
                                                          const std::optional<Tensor>& mask,
                                                          const std::optional<Tensor>& pos_weight,
                                                          const std::optional<Tensor>& normalizer,
                                                          double label_smoothing,
                                                          const std::string& reduction, int64_t level) {
  const auto forward = level_at(level).bce.forward;
  type_of(logits);  // throws for float64, which the reference handles
  const StridedTerms strided_terms(labels, mask, pos_weight, label_smoothing);
  const Strided strided_logits(logits);
  const Terms terms = strided_terms.terms();
  const Elements x = strided_logits.elements();
  const bool is_per_token = reduction == "none";
  Tensor loss = is_per_token ? empty_like(logits, ScalarType::Float)
                             : torch::stable::new_empty(logits, {}, ScalarType::Float);
  float* const losses = loss.mutable_data_ptr<float>();

  const int64_t count = logits.numel();
  std::vector<TokenSums> blocks((count + kBlock - 1) / kBlock);
  for_rows(static_cast<int64_t>(blocks.size()), kBlock, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t start = i * kBlock;
      forward(x, terms, start, std::min(kBlock, count - start), is_per_token ? losses + start : nullptr,
              blocks[i]);
    }
  });
  const TokenSums sums = total(blocks);
  STD_TORCH_CHECK(!sums.has_bad_label, "labels out of range");
  const double denominator = denominator_of(sums, normalizer, reduction);
  if (!is_per_token) *losses = static_cast<float>(sums.loss * reciprocal_or_zero(denominator));
  return {loss, counts_like(logits, sums), scalar_like(logits, ScalarType::Double, denominator)};
}

Tensor masked_bce_with_logits_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& labels,
                                       const std::optional<Tensor>& mask,
                                       const std::optional<Tensor>& pos_weight, const Tensor& denominator,
                                       double label_smoothing, int64_t level) {
  const auto backward = for_type(level_at(level).bce.backward, logits);
  const StridedTerms strided_terms(labels, mask, pos_weight, label_smoothing);
  const Strided strided_logits(logits);
  const StridedUpstream strided_upstream(grad_loss, denominator, grad_loss.dim() > 0);
  const Terms terms = strided_terms.terms();
  const Elements x = strided_logits.elements();
  const Upstream upstream = strided_upstream.upstream();
  Tensor gradient = new_like(logits);
  char* const out = static_cast<char*>(gradient.mutable_data_ptr());
  const int64_t count = logits.numel(), bytes = element_size(logits);
  for_rows((count + kBlock - 1) / kBlock, kBlock, [&](int64_t first, int64_t last) {
    const int64_t start = first * kBlock;
    backward(x, terms, upstream, start, std::min(last * kBlock, count) - start, out + start * bytes);
  });
  return gradient;
}

}  // namespace
}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CPU, library) {
  library.impl("masked_bce_with_logits", TORCH_BOX(&electra_kernels::masked_bce_with_logits));
  library.impl("masked_bce_with_logits_backward",
               TORCH_BOX(&electra_kernels::masked_bce_with_logits_backward));
}
