// cuda_on_cpu::run(name, out): one of the kernels in faults.cu with a thread for each element.
// cuda_on_cpu::launches(): how many kernels have been launched.

#include "../../csrc/cuda/host.h"
#include "faults.h"

namespace {

void run(std::string name, torch::stable::Tensor out) {
  cuda_on_cpu::run(name, static_cast<int>(out.numel()), out.mutable_data_ptr<float>());
}

int64_t launches() { return cuda_on_cpu::launches(); }

}  // namespace

STABLE_TORCH_LIBRARY(cuda_on_cpu, library) {
  library.def("run(str name, Tensor(a!) out) -> ()");
  library.def("launches() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(cuda_on_cpu, CPU, library) { library.impl("run", TORCH_BOX(&run)); }

STABLE_TORCH_LIBRARY_IMPL(cuda_on_cpu, CompositeExplicitAutograd, library) {
  library.impl("launches", TORCH_BOX(&launches));
}
