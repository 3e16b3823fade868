// electra_kernels_cuda::mask_tokens: see electra_kernels/ops/masking.py.

#include "host.h"

namespace electra_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> mask_tokens(const Tensor& input_ids, const Tensor& maskable,
                                               const Tensor& uniforms, int64_t mask_token_id,
                                               int64_t vocab_size, double probability, double mask_fraction,
                                               double random_fraction) {
  const OnDevice device(input_ids);
  const int64_t batch = input_ids.size(0), length = input_ids.size(1), slots = uniforms.size(1);
  STD_TORCH_CHECK(length <= INT32_MAX && slots <= INT32_MAX / 2, "input_ids has rows that are too long");
  const Tensor packed_uniforms = packed(uniforms);
  Tensor masked = empty_like(input_ids, ScalarType::Long);
  Tensor positions = torch::stable::new_empty(input_ids, {batch, slots}, ScalarType::Long);
  Tensor targets = torch::stable::new_empty(input_ids, {batch, slots}, ScalarType::Long);
  std::optional<Tensor> words;
  if (masking_words(length) > kMaskingWordsInShared) {
    words = torch::stable::new_empty(input_ids, {batch, masking_words(length)}, ScalarType::Int);
  }
  const MaskingBatch rows = {input_ids.const_data_ptr<int64_t>(),
                             input_ids.stride(0),
                             input_ids.stride(1),
                             static_cast<const uint8_t*>(maskable.const_data_ptr()),
                             maskable.stride(0),
                             maskable.stride(1),
                             packed_uniforms.const_data_ptr<double>(),
                             words ? static_cast<uint32_t*>(words->mutable_data_ptr()) : nullptr,
                             batch,
                             static_cast<int>(length),
                             static_cast<int>(slots),
                             masked.mutable_data_ptr<int64_t>(),
                             positions.mutable_data_ptr<int64_t>(),
                             targets.mutable_data_ptr<int64_t>()};
  mask_rows(rows, {mask_token_id, vocab_size, probability, mask_fraction, random_fraction}, device.stream);
  return {masked, positions, targets};
}

}  // namespace
}  // namespace electra_kernels

EK_LIBRARY_IMPL(library) { library.impl("mask_tokens", TORCH_BOX(&electra_kernels::mask_tokens)); }
