// electra_kernels._C: says what was built, with which compiler and for which architectures.
//
// The kernels are plain shared libraries for PyTorch's stable ABI and do not depend on Python. Only this
// module depends on a Python version, and the package works without it.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

namespace {

std::string compiler() {
#if defined(__clang__)
  return std::string("clang ") + __clang_version__;
#else
  return std::string("g++ ") + __VERSION__;
#endif
}

std::string architecture() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}

// Library of kernels -> instruction sets or device generations it was compiled for.
std::map<std::string, std::vector<std::string>> libraries() { return {ELECTRA_KERNELS_LIBRARIES}; }

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "What was built: version, compiler, flags, and the libraries of kernels with their targets.";
  module.attr("version") = ELECTRA_KERNELS_VERSION;
  module.attr("flags") = ELECTRA_KERNELS_FLAGS;
  module.attr("compiler") = compiler();
  module.attr("architecture") = architecture();
  module.attr("libraries") = libraries();
}
