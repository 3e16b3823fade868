"""The ops as Triton kernels, for CUDA tensors; with TRITON_INTERPRET=1 in Triton's interpreter, for CPU tensors too.

Importing this package does not import triton: `implementations` does, where there is something to run it on.
"""

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
        from electra_kernels.triton import bce, masking, mlm_head, rtd_head, sampling
    except ImportError as error:
        raise NotAvailableError(f"triton cannot be imported: {error}") from error
    functions: tuple[Callable[..., object], ...] = (
        masking.mask_tokens,
        sampling.sample_tokens,
        sampling.sample_tokens_backward,
        sampling.replace_tokens,
        sampling.sample_replacements,
        mlm_head.cross_entropy_sample,
        mlm_head.cross_entropy_sample_backward,
        mlm_head.cross_entropy_sample_,
        mlm_head.scale_gradient_,
        mlm_head.linear_cross_entropy_sample,
        mlm_head.linear_cross_entropy_sample_backward,
        bce.masked_bce_with_logits,
        bce.masked_bce_with_logits_backward,
        rtd_head.linear_masked_bce,
        rtd_head.linear_masked_bce_backward,
    )
    names = [function.__name__ for function in functions]
    return {
        name: reference.double_is_the_reference(name, reference.checked(name, function))
        for name, function in zip(names, functions)
    }
