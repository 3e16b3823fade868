// electra_kernels_cuda::replace_tokens and sample_replacements: see electra_kernels/ops/replacing.py.

#include "rows_host.h"

namespace electra_kernels {
namespace {

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
  const Scratch scratch(logits, scan_scratch(rows));
  sample_rows(rows, batch, scratch.get(), device.stream);
  return replace(input_ids, positions, tokens, device.stream);
}

}  // namespace
}  // namespace electra_kernels

EK_LIBRARY_IMPL(library) {
  library.impl("replace_tokens", TORCH_BOX(&electra_kernels::replace_tokens));
  library.impl("sample_replacements", TORCH_BOX(&electra_kernels::sample_replacements));
}
