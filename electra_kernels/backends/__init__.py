"""The back ends: the table of ops, the registry that picks a back end per device, the loaders of compiled kernels."""
