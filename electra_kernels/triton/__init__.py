"""The ops as Triton kernels, for CUDA tensors; with TRITON_INTERPRET=1 in Triton's interpreter, for CPU tensors too.

Importing this package does not import triton: `implementations` does, where there is something to run it on.
"""

import importlib
from collections.abc import Callable

from electra_kernels import reference
from electra_kernels.triton.launch import NotAvailableError, devices

__all__ = ["NotAvailableError", "devices", "implementations"]


def implementations() -> dict[str, Callable[..., object]]:
    """Op → function with the arguments of the op's schema.

    Raises:
        NotAvailableError: triton is not installed, or cannot be loaded.
    """
    try:
        # A line per idea, and its ops below.
        bce = importlib.import_module("electra_kernels.triton.bce")
        masking = importlib.import_module("electra_kernels.triton.masking")
    except ImportError as error:
        raise NotAvailableError(f"triton cannot be imported: {error}") from error
    functions: tuple[Callable[..., object], ...] = (
        masking.mask_tokens,
        bce.masked_bce_with_logits,
        bce.masked_bce_with_logits_backward,
    )
    return {
        function.__name__: reference.double_is_the_reference(function.__name__, function)
        for function in functions
    }
