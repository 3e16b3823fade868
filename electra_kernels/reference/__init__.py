"""The specification: every op in plain PyTorch, on any device. Each other back end has to agree with it."""

from collections.abc import Callable
from typing import Any

import torch

from electra_kernels.reference import bce, masking, mlm_head, rtd_head, sampling
from electra_kernels.reference._values import check_values


def checked(op: str, implementation: Callable[..., object]) -> Callable[..., object]:
    """The same op, which refuses values out of range before anything runs."""

    def run(*arguments: Any) -> object:
        check_values(op, arguments)
        return implementation(*arguments)

    return run


IMPLEMENTATIONS: dict[str, Callable[..., object]] = {
    function.__name__: checked(function.__name__, function)
    for function in (
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
}

# Op → position of the argument whose dtype it computes in; None: it has integers alone.
_COMPUTES_IN: dict[str, int | None] = {
    "mask_tokens": None,
    "sample_tokens": 0,
    "sample_tokens_backward": 1,
    "replace_tokens": None,
    "sample_replacements": 0,
    "cross_entropy_sample": 0,
    "cross_entropy_sample_backward": 1,
    "cross_entropy_sample_": 0,
    "scale_gradient_": 0,
    "linear_cross_entropy_sample": 0,
    "linear_cross_entropy_sample_backward": 1,
    "masked_bce_with_logits": 0,
    "masked_bce_with_logits_backward": 1,
    "linear_masked_bce": 0,
    "linear_masked_bce_backward": 1,
}


def double_is_the_reference(op: str, implementation: Callable[..., object]) -> Callable[..., object]:
    """The same op, whose float64 calls the reference serves: it is there for gradcheck, and nobody trains in it."""
    position = _COMPUTES_IN[op]
    if position is None:
        return implementation
    specification = IMPLEMENTATIONS[op]

    def run(*arguments: Any) -> object:
        is_double = arguments[position].dtype == torch.float64
        return (specification if is_double else implementation)(*arguments)

    return run
