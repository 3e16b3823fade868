// electra_kernels_cpp::cross_entropy_sample, its gradients, and the row kernel of the chunked linear head:
// see electra_kernels/ops/mlm_head.py.

#include <limits>

#include "rows_host.h"

namespace electra_kernels {
namespace {

// Options that all rows of a call share.
struct Options {
  int64_t ignore_index;
  double z_loss;
  float temperature;
  bool ban_original;
};

// The row kernels themselves take any target: another rank may have its logit.
void check_targets(const Tensor& targets, int64_t vocab_size, int64_t ignore_index) {
  const Tensor packed_targets = packed(targets);
  const int64_t* const target = packed_targets.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < targets.numel(); ++i) {
    const bool is_valid = target[i] == ignore_index || (target[i] >= 0 && target[i] < vocab_size);
    STD_TORCH_CHECK(is_valid, "targets out of range");
  }
}

// Scans every row of logits once, for `out`. With `overwrites`, the logits become their gradient times
// `scale`.
void scan_rows(const MlmHeadKernels& kernels, const Tensor& logits, const std::optional<Tensor>& bias,
               const Tensor& targets, const Tensor& uniforms, const Options& options, bool overwrites,
               float scale, CrossEntropyTensors& out) {
  const auto cross_entropy = for_type(kernels.cross_entropy, logits);
  const auto scale_row = for_type(kernels.scale, logits);
  const Rows rows = overwrites ? mutable_rows_of(logits) : rows_of(logits);
  const Tensor packed_targets = packed(targets), packed_uniforms = packed(uniforms);
  const int64_t* const target = packed_targets.const_data_ptr<int64_t>();
  const double* const u = packed_uniforms.const_data_ptr<double>();
  const float* const bias_data = data_or_null<float>(bias);
  check_uniforms(u, rows.count);

  float* const losses = out.losses.mutable_data_ptr<float>();
  int64_t* const tokens = out.tokens.mutable_data_ptr<int64_t>();
  bool* const is_top1 = out.is_top1.mutable_data_ptr<bool>();
  float* const logsumexp = out.logsumexp.mutable_data_ptr<float>();
  LogSumExp* const parts = logsumexps_of(out.parts);
  for_rows(rows.count, rows.size, [&](int64_t first, int64_t last) {
    const Scratch scratch(scratch_floats(rows.size));
    for (int64_t i = first; i < last; ++i) {
      if (target[i] == options.ignore_index) {
        losses[i] = logsumexp[i] = 0;
        parts[i] = {0, 0};
        tokens[i] = -1;
        is_top1[i] = false;
        if (overwrites) scale_row(rows[i], rows.stride, rows.size, 0);
        continue;
      }
      const Row row = {rows[i], rows.stride, rows.size, bias_data};
      const Draw draw = {u[i], options.ban_original ? target[i] : -1, options.temperature};
      const GradientRow gradient = {overwrites ? rows[i] : nullptr, rows.stride, scale,
                                    static_cast<float>(options.z_loss), 0};
      RowStatistics row_out;
      cross_entropy(row, draw, target[i], gradient, scratch.get(), row_out);
      const double log_sum = row_out.is_bad ? std::numeric_limits<double>::quiet_NaN() : row_out.log_sum;
      const double lead = static_cast<double>(row_out.maximum) - row_out.target_logit;
      const double row_logsumexp = row_out.maximum + log_sum;
      losses[i] = static_cast<float>(lead + log_sum + options.z_loss * row_logsumexp * row_logsumexp);
      logsumexp[i] = static_cast<float>(row_logsumexp);
      tokens[i] = row_out.token;
      is_top1[i] = row_out.target_logit == row_out.maximum;
      parts[i] = {row_out.maximum, static_cast<float>(log_sum)};
    }
  });
}

double denominator_of(const Tensor& targets, const std::optional<Tensor>& normalizer, int64_t ignore_index,
                      const std::string& reduction) {
  if (reduction != "mean") return 1;
  if (normalizer) return checked_normalizer(*normalizer);
  const Tensor packed_targets = packed(targets);
  const int64_t* const target = packed_targets.const_data_ptr<int64_t>();
  int64_t counted = 0;
  for (int64_t i = 0; i < targets.numel(); ++i) counted += target[i] != ignore_index;
  return static_cast<double>(counted);
}

// Adds up the losses in the order of the rows, so that the sum does not depend on the threads.
Tensor reduced(const Tensor& losses, double denominator, const std::string& reduction) {
  if (reduction == "none") return losses;
  const float* const loss = losses.const_data_ptr<float>();
  double total = 0;
  for (int64_t i = 0; i < losses.numel(); ++i) total += loss[i];
  return scalar_like(losses, ScalarType::Float, static_cast<float>(total * reciprocal_or_zero(denominator)));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> cross_entropy_sample(
    const Tensor& logits, const Tensor& targets, const Tensor& uniforms,
    const std::optional<Tensor>& normalizer, int64_t ignore_index, const std::string& reduction,
    double z_loss, double temperature, bool ban_original, int64_t level) {
  const Options options = {ignore_index, z_loss, static_cast<float>(temperature), ban_original};
  check_targets(targets, logits.size(-1), ignore_index);
  CrossEntropyTensors rows = new_cross_entropies(targets);
  scan_rows(level_at(level).mlm_head, logits, std::nullopt, targets, uniforms, options, false, 1, rows);
  const double denominator = denominator_of(targets, normalizer, ignore_index, reduction);
  return {reduced(rows.losses, denominator, reduction),
          rows.tokens,
          rows.is_top1,
          rows.logsumexp,
          rows.parts,
          scalar_like(targets, ScalarType::Double, denominator)};
}

// Returns the factor that the gradient still lacks. In float16 it is 1 / denominator, which would flush the
// gradient to zero if it were applied here; otherwise 1.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> cross_entropy_sample_(
    const Tensor& logits, const Tensor& targets, const Tensor& uniforms,
    const std::optional<Tensor>& normalizer, int64_t ignore_index, const std::string& reduction,
    double z_loss, double temperature, bool ban_original, int64_t level) {
  const Options options = {ignore_index, z_loss, static_cast<float>(temperature), ban_original};
  check_targets(targets, logits.size(-1), ignore_index);
  const double denominator = denominator_of(targets, normalizer, ignore_index, reduction);
  const float scale = static_cast<float>(reciprocal_or_zero(denominator));
  const bool is_later = type_of(logits) == Type::kFloat16;
  CrossEntropyTensors rows = new_cross_entropies(targets);
  scan_rows(level_at(level).mlm_head, logits, std::nullopt, targets, uniforms, options, true,
            is_later ? 1 : scale, rows);
  return {reduced(rows.losses, denominator, reduction), rows.tokens, rows.is_top1, rows.logsumexp,
          scalar_like(targets, ScalarType::Float, is_later ? scale : 1)};
}

// The upstream gradients of rows: of the loss, one number or one per row, times `factor`; of the log-sum-exp,
// one per row, or null.
struct RowUpstream {
  const float* loss;
  bool is_per_row;
  double factor;
  const float* logsumexp;
};

// Writes the gradients of rows whose log-sum-exp is known into `out`.
void write_gradients(const MlmHeadKernels& kernels, const Tensor& logits, const std::optional<Tensor>& bias,
                     const Tensor& targets, const Tensor& logsumexp_parts, const RowUpstream& upstream,
                     int64_t ignore_index, double z_loss, const Tensor& out) {
  const auto gradient_row = for_type(kernels.gradient, logits);
  const auto scale_row = for_type(kernels.scale, logits);
  const Rows rows = rows_of(logits), gradients = mutable_rows_of(out);
  const Tensor packed_targets = packed(targets), packed_parts = packed(logsumexp_parts);
  const int64_t* const target = packed_targets.const_data_ptr<int64_t>();
  const LogSumExp* const logsumexps = logsumexps_of(packed_parts);
  const float* const bias_data = data_or_null<float>(bias);
  for_rows(rows.count, rows.size, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      if (target[i] == ignore_index) {
        scale_row(gradients[i], gradients.stride, rows.size, 0);
        continue;
      }
      const float scale = static_cast<float>(upstream.loss[upstream.is_per_row ? i : 0] * upstream.factor);
      const float logsumexp_scale = upstream.logsumexp == nullptr ? 0 : upstream.logsumexp[i];
      const Row row = {rows[i], rows.stride, rows.size, bias_data};
      gradient_row(row, target[i], logsumexps[i],
                   {gradients[i], gradients.stride, scale, static_cast<float>(z_loss), logsumexp_scale});
    }
  });
}

Tensor cross_entropy_sample_backward(const Tensor& grad_loss, const std::optional<Tensor>& grad_logsumexp,
                                     const Tensor& logits, const Tensor& targets,
                                     const Tensor& logsumexp_parts, const Tensor& denominator,
                                     int64_t ignore_index, double z_loss, int64_t level) {
  const Tensor gradient = new_like(logits);
  const Tensor of_loss = packed(grad_loss);
  const std::optional<Tensor> of_logsumexp = packed(grad_logsumexp);
  const RowUpstream upstream = {of_loss.const_data_ptr<float>(), grad_loss.dim() > 0,
                                reciprocal_or_zero(*denominator.const_data_ptr<double>()),
                                data_or_null<float>(of_logsumexp)};
  write_gradients(level_at(level).mlm_head, logits, std::nullopt, targets, logsumexp_parts, upstream,
                  ignore_index, z_loss, gradient);
  return gradient;
}

void scale_gradient_(const Tensor& gradient, const Tensor& scale, int64_t level) {
  const auto scale_row = for_type(level_at(level).mlm_head.scale, gradient);
  const Tensor packed_scale = packed(scale);
  const float* const factor = packed_scale.const_data_ptr<float>();
  const bool is_per_row = scale.dim() > 0;
  bool is_one = true;
  for (int64_t i = 0; i < scale.numel(); ++i) is_one &= factor[i] == 1;
  if (is_one) return;
  const Rows rows = mutable_rows_of(gradient);
  for_rows(rows.count, rows.size, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      scale_row(rows[i], rows.stride, rows.size, factor[is_per_row ? i : 0]);
    }
  });
}

// The row kernel of the chunked linear head. The outputs are contiguous.
void cross_entropy_rows_(const Tensor& logits, const std::optional<Tensor>& bias, const Tensor& targets,
                         const Tensor& uniforms, int64_t ignore_index, double z_loss, double temperature,
                         bool ban_original, bool writes_gradient, const Tensor& losses, const Tensor& tokens,
                         const Tensor& is_top1, const Tensor& logsumexp, const Tensor& logsumexp_parts,
                         int64_t level) {
  const Options options = {ignore_index, z_loss, static_cast<float>(temperature), ban_original};
  CrossEntropyTensors rows = {losses, tokens, is_top1, logsumexp, logsumexp_parts};
  scan_rows(level_at(level).mlm_head, logits, bias, targets, uniforms, options, writes_gradient, 1, rows);
}

// The backward of cross_entropy_rows_ for a known log-sum-exp: the logits become their unscaled gradient.
void cross_entropy_rows_backward_(const Tensor& logits, const std::optional<Tensor>& bias,
                                  const Tensor& targets, const Tensor& logsumexp_parts, int64_t ignore_index,
                                  double z_loss, int64_t level) {
  const float one = 1;
  write_gradients(level_at(level).mlm_head, logits, bias, targets, logsumexp_parts, {&one, false, 1, nullptr},
                  ignore_index, z_loss, logits);
}

// The loss and the denominator of the linear head; the reduction is "mean" or "sum".
std::tuple<Tensor, Tensor> cross_entropy_rows_loss(const Tensor& losses, const Tensor& targets,
                                                   const std::optional<Tensor>& normalizer,
                                                   int64_t ignore_index, const std::string& reduction,
                                                   int64_t) {
  const double denominator = denominator_of(targets, normalizer, ignore_index, reduction);
  return {reduced(losses, denominator, reduction), scalar_like(targets, ScalarType::Double, denominator)};
}

}  // namespace
}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CPU, library) {
  library.impl("cross_entropy_sample", TORCH_BOX(&electra_kernels::cross_entropy_sample));
  library.impl("cross_entropy_sample_", TORCH_BOX(&electra_kernels::cross_entropy_sample_));
  library.impl("cross_entropy_sample_backward", TORCH_BOX(&electra_kernels::cross_entropy_sample_backward));
  library.impl("scale_gradient_", TORCH_BOX(&electra_kernels::scale_gradient_));
  library.impl("cross_entropy_rows_", TORCH_BOX(&electra_kernels::cross_entropy_rows_));
  library.impl("cross_entropy_rows_backward_", TORCH_BOX(&electra_kernels::cross_entropy_rows_backward_));
  library.impl("cross_entropy_rows_loss", TORCH_BOX(&electra_kernels::cross_entropy_rows_loss));
}
