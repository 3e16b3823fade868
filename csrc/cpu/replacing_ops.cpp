// electra_kernels_cpp::replace_tokens and sample_replacements: see electra_kernels/ops/replacing.py. A row is
// replaced by plain code without vectors, so there is no kernel file: the draw is the one of sampling.cpp.

#include <atomic>
#include <cstring>

#include "rows_host.h"

namespace electra_kernels {
namespace {

// Writes the tokens [slots] of a row at their positions [slots], and a flag wherever a token differs from the
// original. A slot is in use if its number in used [slots] is not negative. A negative token keeps the
// original. Returns false if two slots have the same position, or if a position is out of range; then the
// outputs are not valid.
bool replace_row(const int64_t* originals, int64_t stride, int64_t length, const int64_t* positions,
                 const int64_t* used, const int64_t* tokens, int64_t slots, int64_t* ids, bool* is_replaced) {
  // An empty row has null pointers, which memcpy and memset must not get.
  if (stride == 1 && length > 0) {
    std::memcpy(ids, originals, length * sizeof(int64_t));
  } else {
    for (int64_t i = 0; i < length; ++i) ids[i] = originals[i * stride];
  }
  if (length > 0) std::memset(is_replaced, 0, length);
  bool is_valid = true;
  // In this loop the flag says that a slot has the position; in the next, that its token differs.
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (used[slot] < 0) continue;
    const int64_t position = positions[slot];
    if (position < 0 || position >= length || is_replaced[position]) {
      is_valid = false;
      continue;
    }
    is_replaced[position] = true;
  }
  if (!is_valid) return false;
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (used[slot] < 0) continue;
    const int64_t position = positions[slot];
    const int64_t token = tokens[slot] < 0 ? ids[position] : tokens[slot];
    is_replaced[position] = token != ids[position];
    ids[position] = token;
  }
  return true;
}

// used, tokens [B, K], contiguous.
std::tuple<Tensor, Tensor> replace(const Tensor& input_ids, const Tensor& positions, const int64_t* used,
                                   const int64_t* tokens) {
  const int64_t batch = input_ids.size(0), length = input_ids.size(1), slots = positions.size(1);
  const int64_t row_stride = input_ids.stride(0), stride = input_ids.stride(1);
  const Tensor packed_positions = packed(positions);
  const int64_t* const originals = input_ids.const_data_ptr<int64_t>();
  const int64_t* const position = packed_positions.const_data_ptr<int64_t>();
  Tensor ids = empty_like(input_ids, ScalarType::Long), flags = empty_like(input_ids, ScalarType::Bool);
  int64_t* const id = ids.mutable_data_ptr<int64_t>();
  bool* const is_replaced = flags.mutable_data_ptr<bool>();
  std::atomic<bool> is_valid{true};
  for_rows(batch, length + slots + 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      if (!replace_row(originals + i * row_stride, stride, length, position + i * slots, used + i * slots,
                       tokens + i * slots, slots, id + i * length, is_replaced + i * length)) {
        is_valid = false;
      }
    }
  });
  STD_TORCH_CHECK(is_valid, "positions out of range or used twice");
  return {ids, flags};
}

std::tuple<Tensor, Tensor> replace_tokens(const Tensor& input_ids, const Tensor& positions,
                                          const Tensor& tokens, int64_t level) {
  level_at(level);  // throws if there is no such level; the code is the same at all of them
  const Tensor packed_tokens = packed(tokens);
  const int64_t* const data = packed_tokens.const_data_ptr<int64_t>();
  return replace(input_ids, positions, data, data);
}

std::tuple<Tensor, Tensor> sample_replacements(const Tensor& logits, const Tensor& input_ids,
                                               const Tensor& positions, const Tensor& targets,
                                               const Tensor& uniforms, double temperature, bool ban_original,
                                               int64_t level) {
  const auto sample = for_type(level_at(level).sampling.sample, logits);
  const Rows rows = rows_of(logits);
  const Tensor packed_uniforms = packed(uniforms), packed_targets = packed(targets);
  const double* const u = packed_uniforms.const_data_ptr<double>();
  const int64_t* const target = packed_targets.const_data_ptr<int64_t>();
  check_uniforms(u, rows.count);
  for (int64_t i = 0; i < rows.count; ++i) {
    STD_TORCH_CHECK(target[i] < rows.size, "targets out of range");
  }
  std::vector<int64_t> tokens(rows.count, -1);
  for_rows(rows.count, rows.size, [&](int64_t first, int64_t last) {
    const Scratch scratch(scratch_floats(rows.size));
    for (int64_t i = first; i < last; ++i) {
      if (target[i] < 0) continue;
      const Row row = {rows[i], rows.stride, rows.size, nullptr};
      RowStatistics statistics;
      sample(row, {u[i], ban_original ? target[i] : -1, static_cast<float>(temperature)}, scratch.get(),
             statistics);
      tokens[i] = statistics.token;
    }
  });
  return replace(input_ids, positions, target, tokens.data());
}

}  // namespace
}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CPU, library) {
  library.impl("replace_tokens", TORCH_BOX(&electra_kernels::replace_tokens));
  library.impl("sample_replacements", TORCH_BOX(&electra_kernels::sample_replacements));
}
