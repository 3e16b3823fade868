// A replacement of torch's parallel_for for ThreadSanitizer, which understands std::thread but not the
// barriers of OpenMP, whose library is not instrumented. `sanitize.py` makes the kernels call this function.

#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <thread>
#include <vector>

// Splits even small work between the threads; the parameter without a name is the smallest share that torch
// would allow.
extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc body,
                                             void* context) {
  constexpr int64_t kThreads = 3;
  const int64_t share = std::max<int64_t>(1, (end - begin + kThreads - 1) / kThreads);
  std::vector<std::thread> threads;
  for (int64_t first = begin; first < end; first += share) {
    threads.emplace_back(body, first, std::min(first + share, end), context);
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}
