"""Examples to copy. Run one with ``python -m electra_kernels.examples.NAME``; ``--help`` lists its options."""
