// torch's parallel_for for ThreadSanitizer: it does not know the barriers of OpenMP, whose library is not
// instrumented, but it knows std::thread. `sanitize.py` gives this function the name that the kernels call.

#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <thread>
#include <vector>

// However small the work is, every thread that can have a share of it has one.
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
