"""A pytest plugin that registers the kernels built by `library` as back end "cuda" for CPU tensors."""

from library import LIBRARY

from electra_kernels.backends.compiled import load
from electra_kernels.backends.implementations import from_library
from electra_kernels.backends.registry import register_backend

register_backend("cuda", ("cpu",), from_library(load("electra_kernels_cuda", LIBRARY)))
