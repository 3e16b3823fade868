// electra_kernels_cuda::row_sums: see electra_kernels/backends/vocab_parallel.py.

#include "rows_host.h"

namespace electra_kernels {
namespace {

// One slice of a vocabulary that is spread over ranks: `sums` [N, 4] gets the SliceSums of the rows, 0 in
// ignored rows.
void row_sums(const Tensor& logits, const Tensor& targets, int64_t ignore_index, double temperature,
              bool ban_original, const Tensor& sums) {
  const OnDevice device(logits);
  const Tensor view = viewable(logits);
  const LogitRows rows = rows_of(view, false);
  const Tensor packed_targets = packed(targets);
  const SliceBatch batch = {packed_targets.const_data_ptr<int64_t>(), ignore_index,
                            static_cast<float>(1 / temperature), ban_original,
                            reinterpret_cast<SliceSums*>(sums.mutable_data_ptr<float>())};
  const Scratch scratch(logits, scan_scratch(rows));
  sum_slices(rows, batch, scratch.get(), device.stream);
}

}  // namespace
}  // namespace electra_kernels

EK_LIBRARY_IMPL(library) { library.impl("row_sums", TORCH_BOX(&electra_kernels::row_sums)); }
