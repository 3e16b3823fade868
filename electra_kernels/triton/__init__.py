"""The ops as Triton kernels, for CUDA tensors. With TRITON_INTERPRET=1 they run in the interpreter, on the CPU too.

Importing this package does not import triton. `implementations` does, and is called only if `devices` names a device.
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
        from electra_kernels.triton import bce, masking, mlm_head, replacing, rtd_head, sampling
    except ImportError as error:
        raise NotAvailableError(f"triton cannot be imported: {error}") from error
    functions: tuple[Callable[..., object], ...] = (
        masking.mask_tokens,
        sampling.sample_tokens,
        sampling.sample_tokens_backward,
        replacing.replace_tokens,
        replacing.sample_replacements,
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
