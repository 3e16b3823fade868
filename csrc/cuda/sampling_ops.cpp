// electra_kernels_cuda::sample_tokens, its gradient, replace_tokens and sample_replacements: see
// electra_kernels/ops/sampling.py.

#include "logits.h"

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
  Tensor logsumexp_parts = empty_parts(uniforms);
  Tensor tokens = empty_like(uniforms, ScalarType::Long);
  const SamplingBatch batch = {data_or_null<int64_t>(packed_banned),
                               true,
                               false,
                               packed_uniforms.const_data_ptr<double>(),
                               static_cast<float>(1 / temperature),
                               logsumexp.mutable_data_ptr<float>(),
                               parts_of(logsumexp_parts),
                               tokens.mutable_data_ptr<int64_t>()};
  const Scratch scratch(logits, visit_scratch(rows));
  sample_rows(rows, batch, scratch.get(), device.stream);
  return {logsumexp, tokens, logsumexp_parts};
}

Tensor sample_tokens_backward(const Tensor& grad_logsumexp, const Tensor& logits,
                              const Tensor& logsumexp_parts) {
  const OnDevice device(logits);
  Tensor gradient = empty_like(logits, logits.scalar_type());
  const Tensor upstream = packed(grad_logsumexp), packed_parts = packed(logsumexp_parts);
  const GradientBatch batch = {parts_of(packed_parts),           nullptr, 0,
                               upstream.const_data_ptr<float>(), true,    nullptr};
  const Tensor view = viewable(logits);
  gradient_rows(rows_of(view, false), batch, rows_of(gradient, true), device.stream);
  return gradient;
}

// tokens [B, K], contiguous.
std::tuple<Tensor, Tensor> replace(const Tensor& input_ids, const Tensor& positions, const Tensor& tokens,
                                   cudaStream_t stream) {
  const Tensor packed_positions = packed(positions);
  Tensor ids = empty_like(input_ids, ScalarType::Long), flags = empty_like(input_ids, ScalarType::Bool);
  const ReplacementBatch rows = {input_ids.const_data_ptr<int64_t>(),
                                 input_ids.stride(0),
                                 input_ids.stride(1),
                                 packed_positions.const_data_ptr<int64_t>(),
                                 tokens.const_data_ptr<int64_t>(),
                                 input_ids.size(0),
                                 input_ids.size(1),
                                 positions.size(1),
                                 ids.mutable_data_ptr<int64_t>(),
                                 flags.mutable_data_ptr<bool>()};
  replace_rows(rows, stream);
  return {ids, flags};
}

std::tuple<Tensor, Tensor> replace_tokens(const Tensor& input_ids, const Tensor& positions,
                                          const Tensor& tokens) {
  const OnDevice device(input_ids);
  return replace(input_ids, positions, packed(tokens), device.stream);
}

std::tuple<Tensor, Tensor> sample_replacements(const Tensor& logits, const Tensor& input_ids,
                                               const Tensor& positions, const Tensor& targets,
                                               const Tensor& uniforms, double temperature,
                                               bool ban_original) {
  const OnDevice device(logits);
  const Tensor view = viewable(logits);
  const LogitRows rows = rows_of(view, false);
  const Tensor packed_uniforms = packed(uniforms), packed_targets = packed(targets);
  Tensor tokens = empty_like(targets, ScalarType::Long);
  const SamplingBatch batch = {packed_targets.const_data_ptr<int64_t>(),
                               ban_original,
                               true,
                               packed_uniforms.const_data_ptr<double>(),
                               static_cast<float>(1 / temperature),
                               nullptr,
                               nullptr,
                               tokens.mutable_data_ptr<int64_t>()};
  const Scratch scratch(logits, visit_scratch(rows));
  sample_rows(rows, batch, scratch.get(), device.stream);
  return replace(input_ids, positions, tokens, device.stream);
}

}  // namespace
}  // namespace electra_kernels

EK_LIBRARY_IMPL(library) {
  library.impl("sample_tokens", TORCH_BOX(&electra_kernels::sample_tokens));
  library.impl("sample_tokens_backward", TORCH_BOX(&electra_kernels::sample_tokens_backward));
  library.impl("replace_tokens", TORCH_BOX(&electra_kernels::replace_tokens));
  library.impl("sample_replacements", TORCH_BOX(&electra_kernels::sample_replacements));
}
