#pragma once

#include <string>

namespace cuda_on_cpu {

// out [threads]
void run(const std::string& name, int threads, float* out);

}  // namespace cuda_on_cpu
