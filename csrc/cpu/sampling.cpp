// One draw per row of logits, and its log-sum-exp, in one scan. Only the tile that the token is drawn from is
// read a second time, while drawing with Gumbel noise writes and reads a tensor of noise as well. Tiles may
// be scanned before the row's maximum is known, because each sum is relative to the maximum of its own tile.

#include "scan.h"

namespace electra_kernels {
namespace {

template <typename T>
void sample_row(const Row& row, const Draw& draw, float* scratch, RowStatistics& statistics) {
  scan_row<T, false>(row, draw, scratch, statistics);
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
