// electra_kernels_cpp::sample_tokens and its gradient: see electra_kernels/ops/sampling.py.

#include "rows_host.h"

namespace electra_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> sample_tokens(const Tensor& logits, const std::optional<Tensor>& banned,
                                                 const Tensor& uniforms, double temperature, int64_t level) {
  const auto sample = for_type(level_at(level).sampling.sample, logits);
  Tensor logsumexp = empty_like(uniforms, ScalarType::Float);
  Tensor logsumexp_parts = empty_logsumexps(uniforms);
  Tensor tokens = empty_like(uniforms, ScalarType::Long);
  const Rows rows = rows_of(logits);
  const Tensor packed_uniforms = packed(uniforms);
  const std::optional<Tensor> packed_banned = packed(banned);
  const double* const u = packed_uniforms.const_data_ptr<double>();
  const int64_t* const excluded = data_or_null<int64_t>(packed_banned);
  float* const logsumexps = logsumexp.mutable_data_ptr<float>();
  LogSumExp* const parts = logsumexps_of(logsumexp_parts);
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
      logsumexps[i] = static_cast<float>(statistics.maximum + statistics.log_sum);
      parts[i] = {statistics.maximum, static_cast<float>(statistics.log_sum)};
      drawn[i] = statistics.token;
    }
  });
  return {logsumexp, tokens, logsumexp_parts};
}

Tensor sample_tokens_backward(const Tensor& grad_logsumexp, const Tensor& logits,
                              const Tensor& logsumexp_parts, int64_t level) {
  const auto soft_max = for_type(level_at(level).sampling.soft_max, logits);
  Tensor gradient = new_like(logits);
  const Rows rows = rows_of(logits);
  const Rows gradients = mutable_rows_of(gradient);
  const Tensor packed_grad = packed(grad_logsumexp), packed_parts = packed(logsumexp_parts);
  const float* const upstream = packed_grad.const_data_ptr<float>();
  const LogSumExp* const logsumexps = logsumexps_of(packed_parts);
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

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CPU, library) {
  library.impl("sample_tokens", TORCH_BOX(&electra_kernels::sample_tokens));
  library.impl("sample_tokens_backward", TORCH_BOX(&electra_kernels::sample_tokens_backward));
}
