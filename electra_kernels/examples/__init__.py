"""Examples to copy from: ``python -m electra_kernels.examples.NAME --help``."""
