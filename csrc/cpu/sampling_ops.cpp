// electra_kernels_cpp::sample_tokens and its gradient: see electra_kernels/ops/sampling.py.

#include "host.h"

namespace electra_kernels {
namespace {

std::tuple<Tensor, Tensor> sample_tokens(const Tensor& logits, const std::optional<Tensor>& banned,
                                         const Tensor& uniforms, double temperature, int64_t level) {
  const auto sample = for_type(level_at(level).sampling.sample, logits);
  Tensor logsumexp = empty_like(uniforms, ScalarType::Float);
  Tensor tokens = empty_like(uniforms, ScalarType::Long);
  const Rows rows = rows_of(logits);
  const Tensor packed_uniforms = packed(uniforms);
  const std::optional<Tensor> packed_banned = banned ? std::optional<Tensor>(packed(*banned)) : std::nullopt;
  const double* const u = packed_uniforms.const_data_ptr<double>();
  const int64_t* const excluded = banned ? packed_banned->const_data_ptr<int64_t>() : nullptr;
  float* const logsumexps = logsumexp.mutable_data_ptr<float>();
  int64_t* const drawn = tokens.mutable_data_ptr<int64_t>();

  check_uniforms(u, rows.count);
  for (int64_t i = 0; excluded != nullptr && i < rows.count; ++i) {
    STD_TORCH_CHECK(excluded[i] < rows.size, "banned out of range");
  }
  for_rows(rows.count, rows.size, [&](int64_t first, int64_t last) {
    const Scratch scratch(scratch_floats(rows.size));
    for (int64_t i = first; i < last; ++i) {
      const Row row = {rows[i], rows.stride, rows.size, nullptr};
      const Draw draw = {u[i], excluded == nullptr ? -1 : excluded[i], static_cast<float>(temperature)};
      RowStatistics statistics;
      sample(row, draw, scratch.get(), statistics);
      logsumexps[i] = static_cast<float>(statistics.logsumexp);
      drawn[i] = statistics.token;
    }
  });
  return {logsumexp, tokens};
}

Tensor sample_tokens_backward(const Tensor& grad_logsumexp, const Tensor& logits, const Tensor& logsumexp,
                              int64_t level) {
  const auto soft_max = for_type(level_at(level).sampling.soft_max, logits);
  Tensor gradient = empty_like(logits, logits.scalar_type());
  const Rows rows = rows_of(logits);
  const Rows gradients = mutable_rows_of(gradient);
  const Tensor packed_grad = packed(grad_logsumexp), packed_logsumexp = packed(logsumexp);
  const float* const upstream = packed_grad.const_data_ptr<float>();
  const float* const logsumexps = packed_logsumexp.const_data_ptr<float>();
  for_rows(rows.count, rows.size, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Row row = {rows[i], rows.stride, rows.size, nullptr};
      soft_max(row, logsumexps[i], upstream[i], gradients[i], 1);
    }
  });
  return gradient;
}

}  // namespace
}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_FRAGMENT(electra_kernels_cpp, library) {
  library.def(
      "sample_tokens(Tensor logits, Tensor? banned, Tensor uniforms, float temperature, int level) "
      "-> (Tensor logsumexp, Tensor tokens)");
  library.def(
      "sample_tokens_backward(Tensor grad_logsumexp, Tensor logits, Tensor logsumexp, int level) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CPU, library) {
  library.impl("sample_tokens", TORCH_BOX(&electra_kernels::sample_tokens));
  library.impl("sample_tokens_backward", TORCH_BOX(&electra_kernels::sample_tokens_backward));
}
