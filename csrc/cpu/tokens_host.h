// Host side of the losses per token: tensors of any strides as Elements, and sums over fixed blocks of
// tokens.

#pragma once

#include "host.h"

namespace electra_kernels {

// Owns the sizes and strides that the Elements of a tensor point to. Without a tensor, all numbers are 1.
class Strided {
 public:
  explicit Strided(const Tensor& tensor) : data_(tensor.const_data_ptr()), type_(number_of(tensor)) {
    const auto sizes = tensor.sizes();
    const auto strides = tensor.strides();
    for (size_t i = 0; i < sizes.size(); ++i) {
      // A dimension that continues the one before it is merged with it.
      if (!sizes_.empty() && strides_.back() == strides[i] * sizes[i]) {
        sizes_.back() *= sizes[i];
        strides_.back() = strides[i];
      } else if (sizes[i] != 1) {
        sizes_.push_back(sizes[i]);
        strides_.push_back(strides[i]);
      }
    }
    if (sizes_.empty()) {
      sizes_.push_back(1);
      strides_.push_back(1);
    }
  }
  explicit Strided(const std::optional<Tensor>& tensor) {
    if (tensor) *this = Strided(*tensor);
  }

  Elements elements() const {
    return {data_, type_, static_cast<int>(sizes_.size()), sizes_.data(), strides_.data()};
  }

 private:
  const void* data_ = nullptr;
  Number type_ = Number::kFloat32;
  std::vector<int64_t> sizes_, strides_;
};

// Owns what Terms points to: labels, mask and positive weight, all of the logits' shape.
class StridedTerms {
 public:
  StridedTerms(const Tensor& labels, const std::optional<Tensor>& mask,
               const std::optional<Tensor>& positive_weight, double label_smoothing)
      : labels_(labels),
        mask_(mask),
        positive_weight_(positive_weight),
        label_smoothing_(static_cast<float>(label_smoothing)) {}

  Terms terms() const {
    return {labels_.elements(), mask_.elements(), positive_weight_.elements(), label_smoothing_};
  }

 private:
  Strided labels_, mask_, positive_weight_;
  float label_smoothing_;
};

// The divisor of the loss, which is 1 unless the reduction is "mean".
inline double denominator_of(const TokenSums& sums, const std::optional<Tensor>& normalizer,
                             const std::string& reduction) {
  if (reduction != "mean") return 1;
  return normalizer ? checked_normalizer(*normalizer) : sums.weight;
}

// The confusion counts [4]: true and false positives, false and true negatives.
inline Tensor counts_like(const Tensor& like, const TokenSums& sums) {
  Tensor counts = torch::stable::new_empty(like, {4}, ScalarType::Long);
  int64_t* const cells = counts.mutable_data_ptr<int64_t>();
  cells[0] = sums.true_positives;
  cells[1] = sums.false_positives;
  cells[2] = sums.false_negatives;
  cells[3] = sums.true_negatives;
  return counts;
}

// Adds up the blocks in their order, so that the sum does not depend on the threads.
inline TokenSums total(const std::vector<TokenSums>& blocks) {
  TokenSums sums = {};
  for (const TokenSums& block : blocks) {
    sums.loss += block.loss;
    sums.weight += block.weight;
    sums.gradient += block.gradient;
    sums.true_positives += block.true_positives;
    sums.false_positives += block.false_positives;
    sums.false_negatives += block.false_negatives;
    sums.true_negatives += block.true_negatives;
    sums.has_bad_label |= block.has_bad_label;
  }
  return sums;
}

// The upstream gradient divided by the denominator: a factor, and for a loss per token also numbers.
class StridedUpstream {
 public:
  StridedUpstream(const Tensor& gradient, const Tensor& denominator, bool is_per_token)
      : numbers_(is_per_token ? std::optional<Tensor>(gradient) : std::nullopt) {
    const double upstream = is_per_token ? 1 : *gradient.const_data_ptr<float>();
    factor_ = static_cast<float>(upstream * reciprocal_or_zero(*denominator.const_data_ptr<double>()));
  }

  Upstream upstream() const { return {numbers_.elements(), factor_}; }
  float factor() const { return factor_; }

 private:
  Strided numbers_;
  float factor_;
};

}  // namespace electra_kernels
