// electra_kernels_cpp::row_sums: see electra_kernels/backends/vocab_parallel.py.

#include "rows_host.h"

namespace electra_kernels {
namespace {

// One slice of a vocabulary that is spread over ranks: `sums` [N, 4] gets the SliceSums of the rows, 0 in
// ignored rows.
void row_sums(const Tensor& logits, const std::optional<Tensor>& bias, const Tensor& targets,
              int64_t ignore_index, double temperature, bool ban_original, const Tensor& sums,
              int64_t level) {
  const auto sum_row = for_type(level_at(level).vocab_parallel.sums, logits);
  const Rows rows = rows_of(logits);
  const Tensor packed_targets = packed(targets);
  const int64_t* const target = packed_targets.const_data_ptr<int64_t>();
  const float* const bias_data = data_or_null<float>(bias);
  SliceSums* const out = reinterpret_cast<SliceSums*>(sums.mutable_data_ptr<float>());
  for_rows(rows.count, rows.size, [&](int64_t first, int64_t last) {
    const Scratch scratch(scratch_floats(rows.size));
    for (int64_t i = first; i < last; ++i) {
      out[i] = {0, 0, 0, 0};
      if (target[i] == ignore_index) continue;
      const Row row = {rows[i], rows.stride, rows.size, bias_data};
      const Draw draw = {0, ban_original ? target[i] : -1, static_cast<float>(temperature)};
      sum_row(row, draw, target[i], scratch.get(), out[i]);
    }
  });
}

}  // namespace
}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CPU, library) {
  library.impl("row_sums", TORCH_BOX(&electra_kernels::row_sums));
}
