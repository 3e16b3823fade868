"""A plugin of pytest: "cuda" is one more back end, for CPU tensors, with the kernels that `library` has built."""

from library import LIBRARY

from electra_kernels.backends.compiled import load
from electra_kernels.backends.implementations import from_library
from electra_kernels.backends.registry import register_backend

register_backend("cuda", ("cpu",), from_library(load("electra_kernels_cuda", LIBRARY)))
