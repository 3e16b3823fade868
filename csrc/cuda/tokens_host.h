// Host side of the per-token losses: tensors of one shape and any strides as Numbers, and what is summed.

#pragma once

#include <array>

#include "host.h"

namespace electra_kernels {

inline Number number_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Number::kFloat32;
    case ScalarType::BFloat16:
      return Number::kBFloat16;
    case ScalarType::Half:
      return Number::kFloat16;
    case ScalarType::Double:
      return Number::kFloat64;
    case ScalarType::Bool:
      return Number::kBool;
    case ScalarType::Byte:
      return Number::kUint8;
    case ScalarType::Int:
      return Number::kInt32;
    case ScalarType::Long:
      return Number::kInt64;
    default:
      STD_TORCH_CHECK(false, "no dtype of logits, labels, mask or weights");
  }
}

inline Parameters parameters_of(Tensor& tensor) { return {tensor.mutable_data_ptr(), number_of(tensor)}; }

// Tensors by their role, some of them not given, whose first dimensions are those of `like`.
using Roles = std::array<std::optional<Tensor>, kRoles>;

// Keeps what a TokenBatch points to.
class Tokens {
 public:
  Tokens(const Tensor& like, Roles given, double label_smoothing) : tensors(std::move(given)) {
    batch.label_smoothing = static_cast<float>(label_smoothing);
    if (merge(like)) return;
    for (auto& tensor : tensors) {
      if (tensor) tensor = torch::stable::contiguous(*tensor);
    }
    STD_TORCH_CHECK(merge(like), "tensors without gaps have one dimension");
  }

  Roles tensors;
  TokenBatch batch = {};

 private:
  // False if they need more dimensions than a kernel takes.
  bool merge(const Tensor& like) {
    batch.count = like.numel();
    batch.dimensions = 0;
    for (int64_t d = 0; d < like.dim(); ++d) {
      if (like.size(d) == 1) continue;
      if (batch.dimensions == 0 || !goes_on(d, like.size(d))) {
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

  // Whether dimension d continues the one before it in all tensors.
  bool goes_on(int64_t d, int64_t size) const {
    const int last = batch.dimensions - 1;
    for (int role = 0; role < kRoles; ++role) {
      const bool is_given = tensors[role].has_value();
      if (is_given && batch.tensors[role].strides[last] != tensors[role]->stride(d) * size) return false;
    }
    return true;
  }
};

// What the sums over all tokens are written to.
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

// The gradient of a loss per token is a tensor by its role; that of one number, a factor.
inline std::optional<Tensor> per_token(const Tensor& grad_loss, bool is_per_token) {
  return is_per_token ? std::optional<Tensor>(grad_loss) : std::nullopt;
}

inline UpstreamScale scale_of(const Tensor& grad_loss, const Tensor& denominator, bool is_per_token) {
  return {is_per_token ? nullptr : grad_loss.const_data_ptr<float>(), denominator.const_data_ptr<double>()};
}

}  // namespace electra_kernels
