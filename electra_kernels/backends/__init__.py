"""The back ends: the table of ops, the registry that picks a back end per device, the loaders of compiled kernels.

The name ``electra_kernels.backends`` is the public function. Import from the modules of this package by
``from electra_kernels.backends.registry import ...``, not by ``import electra_kernels.backends.registry as ...``.
"""
