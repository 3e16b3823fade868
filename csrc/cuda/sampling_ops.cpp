// electra_kernels_cuda::replace_tokens: see electra_kernels/ops/sampling.py.

#include "host.h"

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
  const Refusals refusals(input_ids, stream);
  replace_rows(rows, refusals.first_bad_row(), stream);
  refusals.raise_if_any("positions out of range or used twice");
  return {ids, flags};
}

std::tuple<Tensor, Tensor> replace_tokens(const Tensor& input_ids, const Tensor& positions,
                                          const Tensor& tokens) {
  const OnDevice device(input_ids);
  return replace(input_ids, positions, packed(tokens), device.stream);
}

}  // namespace
}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_FRAGMENT(electra_kernels_cuda, library) {
  library.def(
      "replace_tokens(Tensor input_ids, Tensor positions, Tensor tokens) "
      "-> (Tensor input_ids, Tensor is_replaced)");
}

EK_LIBRARY_IMPL(library) { library.impl("replace_tokens", TORCH_BOX(&electra_kernels::replace_tokens)); }
