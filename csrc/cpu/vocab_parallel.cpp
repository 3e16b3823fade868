// One slice of a vocabulary that is spread over ranks: the scan of the row without its draw, because which
// rank draws depends on the sums of all slices.

#include "scan.h"

namespace electra_kernels {
namespace {

template <typename T>
void slice_sums(const Row& row, const Draw& draw, int64_t target, float* scratch, SliceSums& out) {
  const bool is_tempered = draw.temperature != 1;
  const float scale = is_tempered ? 1 / draw.temperature : 1;
  const Tiles tiles = tiles_in(scratch, row.size, is_tempered);
  const RowSum sum = sum_row<T, false>(row, draw, scale, scratch, tiles);
  double drawable = 0;
  for (int64_t t = 0; t < tiles.count; ++t) drawable += tiles.drawable[t];
  out.maximum = sum.total < kInfinity ? sum.maximum : maximum_with_nan<T>(row);
  out.total = static_cast<float>(sum.total);
  out.drawable = static_cast<float>(drawable);
  out.target_logit = target_logit_of<T>(row, target);
}

}  // namespace

const VocabParallelKernels EK_LEVEL::vocab_parallel = {
    {slice_sums<float>, slice_sums<BFloat16>, slice_sums<Float16>},
};

}  // namespace electra_kernels
