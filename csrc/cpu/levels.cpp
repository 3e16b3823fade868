// The instruction-set levels that were compiled, and which of them this machine can run.

#include "host.h"

namespace electra_kernels {
namespace {

#define EK_LEVEL_TABLES(level)                                          \
  {#level,     level::sampling, level::mlm_head, level::vocab_parallel, \
   level::bce, level::rtd_head, level::masking},
const Level kLevels[] = {EK_FOR_EACH_LEVEL(EK_LEVEL_TABLES)};
constexpr size_t kCount = sizeof(kLevels) / sizeof(kLevels[0]);

bool is_supported(const std::string& name) {
#if defined(__x86_64__)
  // __builtin_cpu_supports asks the processor and the operating system, which has to save the wider
  // registers.
  if (name == "sse2") return true;
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (name == "avx2") return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return name == "avx512" ? avx512 : avx512 && __builtin_cpu_supports("avx512bf16");
#else
  return !name.empty();  // the one level of this architecture
#endif
}

// Names of the levels that this machine can run, by index, from the least demanding up.
std::vector<std::string> supported_levels() {
  std::vector<std::string> names;
  for (const Level& level : kLevels) {
    if (!is_supported(level.name)) break;
    names.push_back(level.name);
  }
  return names;
}

std::string supported_level(int64_t index) {
  const std::vector<std::string> names = supported_levels();
  return index < static_cast<int64_t>(names.size()) ? names[index] : "";
}

}  // namespace

const Level& level_at(int64_t index) {
  static const int64_t supported = static_cast<int64_t>(supported_levels().size());
  STD_TORCH_CHECK(index >= 0 && index < supported, "no such instruction-set level here");
  static_assert(kCount > 0, "at least one level");
  return kLevels[index];
}

}  // namespace electra_kernels

STABLE_TORCH_LIBRARY_IMPL(electra_kernels_cpp, CompositeExplicitAutograd, library) {
  library.impl("supported_level", TORCH_BOX(&electra_kernels::supported_level));
}
