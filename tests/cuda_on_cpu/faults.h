#pragma once

#include <cstdint>
#include <string>

namespace cuda_on_cpu {

// Kernels launched so far.
int64_t launches();

// out [threads]
void run(const std::string& name, int threads, float* out);

}  // namespace cuda_on_cpu
