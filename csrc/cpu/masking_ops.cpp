// electra_kernels_cpp::mask_tokens: see electra_kernels/ops/masking.py.

#include <atomic>

#include "host.h"

namespace electra_kernels {
namespace {

std::tuple<Tensor, Tensor, Tensor> mask_tokens(const Tensor& input_ids, const Tensor& maskable,
                                               const Tensor& uniforms, int64_t mask_token_id,
                                               int64_t vocab_size, double probability, double mask_fraction,
                                               double random_fraction, int64_t level) {
  const auto mask_row = level_at(level).masking.mask_row;
  const MaskingOptions options = {mask_token_id, vocab_size, probability, mask_fraction, random_fraction};
  const int64_t batch = input_ids.size(0), length = input_ids.size(1), slots = uniforms.size(1);
  const Tensor packed_uniforms = packed(uniforms);
  const double* const u = packed_uniforms.const_data_ptr<double>();
  check_uniforms(u, uniforms.numel());

  Tensor masked = empty_like(input_ids, ScalarType::Long);
  Tensor positions = torch::stable::new_empty(input_ids, {batch, slots}, ScalarType::Long);
  Tensor targets = torch::stable::new_empty(input_ids, {batch, slots}, ScalarType::Long);
  const int64_t* const ids = input_ids.const_data_ptr<int64_t>();
  const uint8_t* const flags = static_cast<const uint8_t*>(maskable.const_data_ptr());
  int64_t* const masked_ids = masked.mutable_data_ptr<int64_t>();
  int64_t* const position = positions.mutable_data_ptr<int64_t>();
  int64_t* const target = targets.mutable_data_ptr<int64_t>();
  std::atomic<bool> is_valid{true};
  for_rows(batch, length + 16 * slots + 1, [&](int64_t first, int64_t last) {
    std::vector<int32_t> scratch(masking_scratch(length, slots));
    for (int64_t i = first; i < last; ++i) {
      const MaskingRow row = {ids + i * input_ids.stride(0),
                              input_ids.stride(1),
                              flags + i * maskable.stride(0),
                              maskable.stride(1),
                              length,
                              u + i * slots * 2,
                              slots,
                              masked_ids + i * length,
                              position + i * slots,
                              target + i * slots};
      if (!mask_row(row, options, scratch.data())) is_valid = false;
    }
  });
  STD_TORCH_CHECK(is_valid, "input_ids out of range");
  return {masked, positions, targets};
}

}  // namespace
}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CPU, library) {
  library.impl("mask_tokens", TORCH_BOX(&electra_kernels::mask_tokens));
}
