// The order of the kernels that a thread of the host launches, and two of them that overlap (Overlap in
// csrc/cuda/device.h).

#pragma once

#include <functional>
#include <stdexcept>
#include <utility>

#include "machine.h"

namespace fibers {

// The kernels of a host thread. One that the next may overlap is put off until that one waits for it, which
// is as late as on a GPU: until then its results are memory that nobody has written.
class Stream {
 public:
  using Kernel = std::function<void(Machine&, std::function<void()> first)>;

  void launch(bool is_first, bool is_second, const Kernel& kernel) {
    std::function<void()> first = std::exchange(first_, nullptr);
    if (is_second != (first != nullptr)) {
      throw std::runtime_error("fibers: the second of two kernels that overlap should follow the first");
    }
    if (!is_first) return kernel(machines[0], std::move(first));
    first_ = [kernel] {
      machine = &machines[1];
      try {
        kernel(machines[1], nullptr);
      } catch (...) {
        machine = &machines[0];
        throw;
      }
      machine = &machines[0];
    };
  }

 private:
  std::function<void()> first_;
};

inline thread_local Stream stream;

// Kernels launched so far by all threads.
inline int64_t launches() { return machines[0].launches() + machines[1].launches(); }

}  // namespace fibers
