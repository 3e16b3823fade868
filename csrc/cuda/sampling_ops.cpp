// electra_kernels_cuda::sample_tokens and its gradient: see electra_kernels/ops/sampling.py.

#include "rows_host.h"

namespace electra_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> sample_tokens(const Tensor& logits, const std::optional<Tensor>& banned,
                                                 const Tensor& uniforms, double temperature) {
  const OnDevice device(logits);
  const Tensor view = viewable(logits);
  const LogitRows rows = rows_of(view, false);
  const Tensor packed_uniforms = packed(uniforms);
  const std::optional<Tensor> packed_banned = packed(banned);
  Tensor logsumexp = empty_like(uniforms, ScalarType::Float);
  Tensor logsumexp_parts = empty_logsumexps(uniforms);
  Tensor tokens = empty_like(uniforms, ScalarType::Long);
  const SamplingBatch batch = {data_or_null<int64_t>(packed_banned),
                               true,
                               false,
                               packed_uniforms.const_data_ptr<double>(),
                               static_cast<float>(1 / temperature),
                               logsumexp.mutable_data_ptr<float>(),
                               logsumexps_of(logsumexp_parts),
                               tokens.mutable_data_ptr<int64_t>()};
  const Scratch scratch(logits, scan_scratch(rows));
  sample_rows(rows, batch, scratch.get(), device.stream);
  return {logsumexp, tokens, logsumexp_parts};
}

Tensor sample_tokens_backward(const Tensor& grad_logsumexp, const Tensor& logits,
                              const Tensor& logsumexp_parts) {
  const OnDevice device(logits);
  Tensor gradient = empty_like(logits, logits.scalar_type());
  const Tensor upstream = packed(grad_logsumexp), packed_parts = packed(logsumexp_parts);
  const GradientBatch batch = {
      logsumexps_of(packed_parts), nullptr, 0, upstream.const_data_ptr<float>(), true, nullptr, 0, nullptr};
  const Tensor view = viewable(logits);
  gradient_rows(rows_of(view, false), batch, rows_of(gradient, true), device.stream);
  return gradient;
}

}  // namespace
}  // namespace electra_kernels

EK_LIBRARY_IMPL(library) {
  library.impl("sample_tokens", TORCH_BOX(&electra_kernels::sample_tokens));
  library.impl("sample_tokens_backward", TORCH_BOX(&electra_kernels::sample_tokens_backward));
}
