// electra_kernels_cuda::cross_entropy_sample, its gradients, and the row kernel of the chunked linear head:
// see electra_kernels/ops/mlm_head.py.

#include "rows_host.h"

namespace electra_kernels {
namespace {

// Options that all rows of a call share.
struct Options {
  int64_t ignore_index;
  double z_loss, temperature;
  bool ban_original;
};

// Memory for the sum of the losses and for what goes into it, see LossSum.
struct Sums {
  Sums(const Tensor& targets, const std::string& reduction, const std::optional<Tensor>& normalizer)
      : loss(torch::stable::new_empty(targets, {}, ScalarType::Float)),
        denominator(torch::stable::new_empty(targets, {}, ScalarType::Double)),
        reciprocal(torch::stable::new_empty(targets, {}, ScalarType::Float)),
        one(torch::stable::new_empty(targets, {}, ScalarType::Float)),
        finished(torch::stable::new_empty(targets, {}, ScalarType::Int)),
        sum{reinterpret_cast<unsigned*>(finished.mutable_data_ptr<int32_t>()),
            reduction == "mean",
            data_or_null<double>(normalizer),
            denominator.mutable_data_ptr<double>(),
            reciprocal.mutable_data_ptr<float>(),
            one.mutable_data_ptr<float>(),
            loss.mutable_data_ptr<float>()} {}

  Tensor loss, denominator, reciprocal, one, finished;
  LossSum sum;
};

// Scans every row of logits once, for `out`. With `overwrites`, the logits become their gradient times
// `scale`, a float on the device or null.
void scan_rows(const Tensor& logits, const Tensor& targets, const Tensor& uniforms, const Options& options,
               bool overwrites, const float* scale, CrossEntropyTensors& out, cudaStream_t stream,
               const LossSum& sum = {}) {
  const Tensor view = viewable(logits);
  const LogitRows rows = rows_of(view, overwrites);
  const Tensor packed_targets = packed(targets), packed_uniforms = packed(uniforms);
  const CrossEntropyBatch batch = {packed_targets.const_data_ptr<int64_t>(),
                                   options.ignore_index,
                                   packed_uniforms.const_data_ptr<double>(),
                                   static_cast<float>(options.z_loss),
                                   static_cast<float>(1 / options.temperature),
                                   options.ban_original,
                                   overwrites,
                                   scale,
                                   out.losses.mutable_data_ptr<float>(),
                                   out.tokens.mutable_data_ptr<int64_t>(),
                                   out.is_top1.mutable_data_ptr<bool>(),
                                   out.logsumexp.mutable_data_ptr<float>(),
                                   logsumexps_of(out.parts),
                                   sum};
  const Scratch scratch(logits, scan_scratch(rows));
  cross_entropy_rows(rows, batch, scratch.get(), stream);
  if (overwrites) write_back(logits, view);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> cross_entropy_sample(
    const Tensor& logits, const Tensor& targets, const Tensor& uniforms,
    const std::optional<Tensor>& normalizer, int64_t ignore_index, const std::string& reduction,
    double z_loss, double temperature, bool ban_original) {
  const OnDevice device(logits);
  const Options options = {ignore_index, z_loss, temperature, ban_original};
  const Sums sums(targets, reduction, normalizer);
  CrossEntropyTensors rows = new_cross_entropies(targets);
  scan_rows(logits, targets, uniforms, options, false, nullptr, rows, device.stream, sums.sum);
  return {reduction == "none" ? rows.losses : sums.loss,
          rows.tokens,
          rows.is_top1,
          rows.logsumexp,
          rows.parts,
          sums.denominator};
}

// Returns the factor that the gradient still lacks. In float16 it is 1 / denominator, which would flush the
// gradient to zero if it were applied here; otherwise 1.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> cross_entropy_sample_(
    const Tensor& logits, const Tensor& targets, const Tensor& uniforms,
    const std::optional<Tensor>& normalizer, int64_t ignore_index, const std::string& reduction,
    double z_loss, double temperature, bool ban_original) {
  const OnDevice device(logits);
  const Options options = {ignore_index, z_loss, temperature, ban_original};
  const bool is_later = type_of(logits) == Type::kFloat16;
  const Sums sums(targets, reduction, normalizer);
  CrossEntropyTensors rows = new_cross_entropies(targets);
  scan_rows(logits, targets, uniforms, options, true,
            is_later ? nullptr : sums.reciprocal.const_data_ptr<float>(), rows, device.stream, sums.sum);
  return {sums.loss, rows.tokens, rows.is_top1, rows.logsumexp, is_later ? sums.reciprocal : sums.one};
}

Tensor cross_entropy_sample_backward(const Tensor& grad_loss, const std::optional<Tensor>& grad_logsumexp,
                                     const Tensor& logits, const Tensor& targets,
                                     const Tensor& logsumexp_parts, const Tensor& denominator,
                                     int64_t ignore_index, double z_loss) {
  const OnDevice device(logits);
  const Tensor view = viewable(logits);
  const Tensor packed_parts = packed(logsumexp_parts), packed_targets = packed(targets);
  const Tensor upstream = packed(grad_loss);
  const std::optional<Tensor> logsumexp_upstream = packed(grad_logsumexp);
  Tensor gradient = empty_like(logits, logits.scalar_type());
  const GradientBatch batch = {logsumexps_of(packed_parts),
                               packed_targets.const_data_ptr<int64_t>(),
                               ignore_index,
                               upstream.const_data_ptr<float>(),
                               grad_loss.dim() > 0,
                               denominator.const_data_ptr<double>(),
                               static_cast<float>(z_loss),
                               data_or_null<float>(logsumexp_upstream)};
  gradient_rows(rows_of(view, false), batch, rows_of(gradient, true), device.stream);
  return gradient;
}

void scale_gradient_(const Tensor& gradient, const Tensor& scale) {
  const OnDevice device(gradient);
  const Tensor view = viewable(gradient), packed_scale = packed(scale);
  scale_rows(rows_of(view, true), packed_scale.const_data_ptr<float>(), scale.dim() > 0, device.stream);
  write_back(gradient, view);
}

// The row kernel of the chunked linear head. The outputs are contiguous.
void cross_entropy_rows_(const Tensor& logits, const Tensor& targets, const Tensor& uniforms,
                         int64_t ignore_index, double z_loss, double temperature, bool ban_original,
                         bool writes_gradient, const Tensor& losses, const Tensor& tokens,
                         const Tensor& is_top1, const Tensor& logsumexp, const Tensor& logsumexp_parts) {
  const OnDevice device(logits);
  const Options options = {ignore_index, z_loss, temperature, ban_original};
  CrossEntropyTensors rows = {losses, tokens, is_top1, logsumexp, logsumexp_parts};
  scan_rows(logits, targets, uniforms, options, writes_gradient, nullptr, rows, device.stream);
}

// The backward of cross_entropy_rows_ for a known log-sum-exp: the logits become their unscaled gradient.
void cross_entropy_rows_backward_(const Tensor& logits, const Tensor& targets, const Tensor& logsumexp_parts,
                                  int64_t ignore_index, double z_loss) {
  const OnDevice device(logits);
  const Tensor view = viewable(logits);
  const Tensor packed_parts = packed(logsumexp_parts), packed_targets = packed(targets);
  const GradientBatch batch = {logsumexps_of(packed_parts),
                               packed_targets.const_data_ptr<int64_t>(),
                               ignore_index,
                               nullptr,
                               false,
                               nullptr,
                               static_cast<float>(z_loss),
                               nullptr};
  const LogitRows rows = rows_of(view, true);
  gradient_rows(rows, batch, rows, device.stream);
  write_back(logits, view);
}

// The loss and the denominator of the linear head; the reduction is "mean" or "sum".
std::tuple<Tensor, Tensor> cross_entropy_rows_loss(const Tensor& losses, const Tensor& targets,
                                                   const std::optional<Tensor>& normalizer,
                                                   int64_t ignore_index, const std::string& reduction) {
  const OnDevice device(losses);
  const Tensor packed_targets = packed(targets);
  const Sums sums(targets, reduction, normalizer);
  CrossEntropyBatch batch = {};
  batch.targets = packed_targets.const_data_ptr<int64_t>();
  batch.ignore_index = ignore_index;
  batch.losses = losses.mutable_data_ptr<float>();
  batch.sum = sums.sum;
  sum_losses(batch, targets.numel(), device.stream);
  return {sums.loss, sums.denominator};
}

}  // namespace
}  // namespace electra_kernels

EK_LIBRARY_IMPL(library) {
  library.impl("cross_entropy_sample", TORCH_BOX(&electra_kernels::cross_entropy_sample));
  library.impl("cross_entropy_sample_", TORCH_BOX(&electra_kernels::cross_entropy_sample_));
  library.impl("cross_entropy_sample_backward", TORCH_BOX(&electra_kernels::cross_entropy_sample_backward));
  library.impl("scale_gradient_", TORCH_BOX(&electra_kernels::scale_gradient_));
  library.impl("cross_entropy_rows_", TORCH_BOX(&electra_kernels::cross_entropy_rows_));
  library.impl("cross_entropy_rows_backward_", TORCH_BOX(&electra_kernels::cross_entropy_rows_backward_));
  library.impl("cross_entropy_rows_loss", TORCH_BOX(&electra_kernels::cross_entropy_rows_loss));
}
