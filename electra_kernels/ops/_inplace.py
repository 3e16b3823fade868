"""The in-place variant of `cross_entropy_sample`: its gradient overwrites the logits."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from electra_kernels.ops._autograd import same_backend, save_backend
from electra_kernels.ops._library import define
from electra_kernels.reference.common import accumulation_dtype


def _fake(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(logits.dtype)
    loss, factor = targets.new_empty((), dtype=dtype), targets.new_empty((), dtype=dtype)
    tokens, logsumexp = targets.new_empty(targets.shape), targets.new_empty(targets.shape, dtype=dtype)
    return loss, tokens, targets.new_empty(targets.shape, dtype=torch.bool), logsumexp, factor


define("cross_entropy_sample_", _fake)
define("scale_gradient_", lambda gradient, scale: None)


class _Overwritten:
    """The memory of the logits after the gradient has overwritten it.

    Autograd raises if a saved tensor was written to, but not if saved-tensor hooks have packed it. Such a hook may
    return this memory or a copy, once or at every call.
    """

    def __init__(self, logits: Tensor) -> None:
        self.storage = weakref.ref(logits.untyped_storage())
        self.version = logits._version
        self.is_scaled = False

    def check(self, unpacked: Tensor) -> None:
        """Raise a RuntimeError unless ``unpacked`` still holds the gradient before it is scaled."""
        is_same = unpacked.untyped_storage() is self.storage()
        # An alias made by `.data` counts its versions from 0.
        if self.is_scaled or (is_same and unpacked._version > self.version):
            raise RuntimeError(
                "logits of cross_entropy_sample have been modified by an inplace operation since its forward (or by a "
                "first backward): inplace_backward=True allows one backward, before anything else writes to them"
            )
        self.is_scaled = True


class CrossEntropySample(torch.autograd.Function):
    """The gradient overwrites the logits and bumps their version, so autograd detects ops that need the old values."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        save_backend(ctx)
        ops = torch.ops.electra_kernels
        loss, tokens, is_top1, logsumexp, factor = ops.cross_entropy_sample_(logits, *arguments)
        torch.autograd.graph.increment_version(logits)
        ctx.save_for_backward(logits, factor)
        ctx.overwritten = _Overwritten(logits)
        ctx.mark_non_differentiable(tokens, is_top1, logsumexp)
        return loss, tokens, is_top1, logsumexp

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        # once_differentiable does not raise if grad_loss requires no grad. Autograd would then take the history of the
        # logits for the history of the gradient that has overwritten them.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "cross_entropy_sample cannot be differentiated twice: its gradient has no gradient"
            )
        if grad_loss is None:
            return (None,) * 9
        gradient, factor = ctx.saved_tensors
        ctx.overwritten.check(gradient)
        with same_backend(ctx, grad_loss):
            torch.ops.electra_kernels.scale_gradient_(gradient, grad_loss * factor)
        torch.autograd.graph.increment_version(gradient)
        return gradient.detach(), *[None] * 8


def check_overwritable(logits: Tensor, reduction: str) -> None:
    # Autograd would notice only after the logits have been overwritten.
    if not torch.compiler.is_compiling() and forward_ad.unpack_dual(logits).tangent is not None:
        raise RuntimeError("cross_entropy_sample has no gradient in forward mode")
    if reduction == "none":
        raise ValueError('inplace_backward is True with reduction="none", should be with "mean" or "sum"')
    if torch.compiler.is_compiling():  # the compiler gets the op that is not in place
        return
    kind = _shares_a_leaf(logits)
    if kind is not None:
        raise ValueError(
            f"logits is {kind} that requires grad, should be the result of an op for inplace_backward"
        )
    if _overlaps(logits):
        raise ValueError(
            f"logits has strides {list(logits.stride())}, should have no two elements in one place "
            "for inplace_backward"
        )


def _shares_a_leaf(logits: Tensor) -> str | None:
    """ "a leaf" or "a view of a leaf" if the logits share the memory of a leaf that requires grad, else None."""
    if logits.is_leaf:
        return "a leaf" if logits.requires_grad else None
    base = logits._base
    if base is None:
        return None
    # `_base` is the root of a chain of views. If the root needs no gradient, the leaf is a view in between, such as
    # data[0].requires_grad_(), and the logits are a view of that leaf.
    return "a view of a leaf" if base.is_leaf or not base.requires_grad else None


def _overlaps(tensor: Tensor) -> bool:
    """Whether two elements may share memory: True unless every dimension steps over the span of the smaller ones."""
    if tensor.numel() == 0:
        return False
    span = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1 and stride < span:
            return True
        span += stride * (size - 1)
    return False
