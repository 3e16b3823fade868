// Host side of the losses per token: tensors of one shape and any strides as a TokenBatch, and memory for the
// sums.

#pragma once

#include <array>

#include "host.h"

namespace electra_kernels {

inline Parameters parameters_of(Tensor& tensor) { return {tensor.mutable_data_ptr(), number_of(tensor)}; }

// Tensors by their role, some of which are not given. The first dimensions of each are those of `like` below.
using Roles = std::array<std::optional<Tensor>, kRoles>;

// Owns the tensors that a TokenBatch points to. If they have too many dimensions for a kernel, they are
// copied.
class Tokens {
 public:
  Tokens(const Tensor& like, Roles given, double label_smoothing) : tensors(std::move(given)) {
    batch.label_smoothing = static_cast<float>(label_smoothing);
    if (merge(like)) return;
    for (auto& tensor : tensors) {
      if (tensor) tensor = torch::stable::contiguous(*tensor);
    }
    STD_TORCH_CHECK(merge(like), "contiguous tensors have one dimension");
  }

  Roles tensors;
  TokenBatch batch = {};

 private:
  // Returns false if more than kMaxDimensions remain.
  bool merge(const Tensor& like) {
    batch.count = like.numel();
    batch.dimensions = 0;
    for (int64_t d = 0; d < like.dim(); ++d) {
      if (like.size(d) == 1) continue;
      if (batch.dimensions == 0 || !continues(d, like.size(d))) {
        if (batch.dimensions == kMaxDimensions) return false;
        batch.sizes[batch.dimensions++] = 1;
      }
      const int last = batch.dimensions - 1;
      batch.sizes[last] *= like.size(d);
      for (int role = 0; role < kRoles; ++role) {
        if (tensors[role]) batch.tensors[role].strides[last] = tensors[role]->stride(d);
      }
    }
    if (batch.dimensions == 0) batch.sizes[batch.dimensions++] = 1;
    for (int role = 0; role < kRoles; ++role) {
      if (!tensors[role]) continue;
      batch.tensors[role].data = tensors[role]->const_data_ptr();
      batch.tensors[role].type = number_of(*tensors[role]);
    }
    return true;
  }

  // Whether dimension d continues the one before it, in all tensors.
  bool continues(int64_t d, int64_t size) const {
    const int last = batch.dimensions - 1;
    for (int role = 0; role < kRoles; ++role) {
      const bool is_given = tensors[role].has_value();
      if (is_given && batch.tensors[role].strides[last] != tensors[role]->stride(d) * size) return false;
    }
    return true;
  }
};

// The tensors that the sums over all tokens are written to.
struct TotalTensors {
  TotalTensors(const Tensor& like, int64_t blocks, bool is_mean, const std::optional<Tensor>& normalizer)
      : partials(torch::stable::new_empty(like, {kTokenSums, blocks}, ScalarType::Double)),
        counts(torch::stable::new_empty(like, {4}, ScalarType::Long)),
        denominator(torch::stable::new_empty(like, {}, ScalarType::Double)),
        totals{partials.mutable_data_ptr<double>(),
               static_cast<int>(blocks),
               is_mean,
               normalizer ? normalizer->const_data_ptr<double>() : nullptr,
               nullptr,
               counts.mutable_data_ptr<int64_t>(),
               denominator.mutable_data_ptr<double>(),
               {nullptr, Number::kFloat32}} {}

  Tensor partials, counts, denominator;
  TokenTotals totals;
};

// The upstream gradient as a tensor with a role, if the loss is one per token; otherwise it is a factor, see
// scale_of.
inline std::optional<Tensor> per_token(const Tensor& grad_loss, bool is_per_token) {
  return is_per_token ? std::optional<Tensor>(grad_loss) : std::nullopt;
}

inline UpstreamScale scale_of(const Tensor& grad_loss, const Tensor& denominator, bool is_per_token) {
  return {is_per_token ? nullptr : grad_loss.const_data_ptr<float>(), denominator.const_data_ptr<double>()};
}

}  // namespace electra_kernels
