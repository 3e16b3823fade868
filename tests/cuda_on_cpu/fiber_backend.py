"""A plugin of pytest: "cuda" is one more back end, for CPU tensors, with the kernels that `library` has built."""

import torch
from library import LIBRARY

from electra_kernels import compiled
from electra_kernels.routing import register_backend

torch.ops.load_library(str(LIBRARY))
register_backend("cuda", ("cpu",), compiled.serving(torch.ops.electra_kernels_cuda))
