"""A pytest plugin that registers the kernels built by `library` as back end "cuda" for CPU tensors."""

import torch
from library import LIBRARY

from electra_kernels import compiled
from electra_kernels.routing import register_backend

torch.ops.load_library(str(LIBRARY))
register_backend("cuda", ("cpu",), compiled.serving(torch.ops.electra_kernels_cuda))
