"""The back ends: the table of ops, who serves an op on which device, and the loaders of the compiled kernels."""
