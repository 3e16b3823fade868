"""The ops as Triton kernels, for CUDA tensors; with TRITON_INTERPRET=1 in Triton's interpreter, for CPU tensors too.

One module per idea. Importing this package does not import triton; importing one of its modules does.
"""

from electra_kernels.triton.launch import NotAvailableError, devices

__all__ = ["NotAvailableError", "devices"]
