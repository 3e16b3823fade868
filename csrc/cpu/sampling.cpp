// One draw per row at the price of its log-sum-exp: the row is read once, and one tile of it a second time.

#include "rows.h"

namespace electra_kernels {
namespace {

template <typename T>
void sample_row(const Row& row, const Draw& draw, float* scratch, RowStatistics& statistics) {
  visit<T, false>(row, draw, scratch, statistics);
}

template <typename T>
void soft_max_row(const Row& row, const LogSumExp& logsumexp, float scale, void* gradient,
                  int64_t gradient_stride) {
  soft_max<T>(row, logsumexp, scale, static_cast<T*>(gradient), gradient_stride);
}

}  // namespace

const SamplingKernels EK_LEVEL::sampling = {
    {sample_row<float>, sample_row<BFloat16>, sample_row<Float16>},
    {soft_max_row<float>, soft_max_row<BFloat16>, soft_max_row<Float16>},
};

}  // namespace electra_kernels
