"""Per-token binary cross-entropy over the tokens whose mask is set."""

from typing import Any

import torch
from torch import Tensor

from electra_kernels.ops._autograd import needs_autograd, register_gradient, same_backend, save_backend
from electra_kernels.ops._checks import (
    FLOATING,
    check_fraction,
    check_shape,
    check_tensor,
    check_weight,
    normalizer_tensor,
    scalar_tensor,
)
from electra_kernels.ops._library import define, options, overload
from electra_kernels.reference.common import accumulation_dtype

_MASKS = (torch.bool, torch.int64, torch.int32, torch.uint8, *FLOATING)


def _fake(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    normalizer: Tensor | None,
    label_smoothing: float,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        logits.new_empty(logits.shape if reduction == "none" else (), dtype=accumulation_dtype(logits.dtype)),
        logits.new_empty(4, dtype=torch.int64),
        logits.new_empty((), dtype=torch.float64),
    )


define("masked_bce_with_logits", _fake)
define("masked_bce_with_logits_backward", lambda grad_loss, logits, *_: logits.new_empty(logits.shape))


class _MaskedBCEWithLogits(torch.autograd.Function):
    """d loss / d logit = m ((1 - y) sigmoid(x) - p y sigmoid(-x)), times upstream / denominator."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        *_, label_smoothing, _ = arguments
        output = overload("masked_bce_with_logits", label_smoothing)(*arguments)
        _MaskedBCEWithLogits.save(ctx, arguments, output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        save_backend(ctx)
        logits, labels, mask, pos_weight, _, ctx.label_smoothing, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(logits, labels, mask, pos_weight, output[2])

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * 7
        gradient = overload("masked_bce_with_logits_backward", ctx.label_smoothing)
        with same_backend(ctx, grad_loss):
            grad = gradient(grad_loss, *ctx.saved_tensors, ctx.label_smoothing)
        return grad, *[None] * 6


register_gradient("masked_bce_with_logits", _MaskedBCEWithLogits)


def masked_bce_with_logits(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    pos_weight: float | Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy per token over the tokens whose mask is set, in one pass.

    loss = m (p y softplus(-x) + (1 - y) softplus(x)), which equals
    ``torch.nn.functional.binary_cross_entropy_with_logits(x, y, weight=m, pos_weight=p)``, with
    y = label (1 - s) + s / 2 for label smoothing s. "mean" divides by the sum of the mask weights m.
    ``torch.ops.electra_kernels.masked_bce_with_logits`` returns the confusion counts as well.

    Args:
        logits: any shape, float32, bfloat16 or float16, any strides.
        labels: the same shape; bool, int (0, 1, or -100 = ignored) or float in [0, 1].
        mask: broadcasts to logits; bool or int (nonzero = set, such as a Hugging Face ``attention_mask``) or float
            (a weight per token). A token with mask 0 adds nothing, even if its logit is NaN.
        pos_weight: weight p of the positive term, a number or a tensor that broadcasts to logits.
        label_smoothing: s in [0, 1].
        reduction: "mean" (0 if nothing is unmasked), "sum" or "none".
        normalizer: replaces the sum of the mask weights as the denominator of "mean". A positive number, or a
            0-dim tensor of float32, float64 or integers, which is never synchronised.

    Returns:
        float32, [] or, with "none", the shape of logits. Only ``logits`` gets a gradient.

    Raises:
        TypeError, ValueError: an argument has a wrong dtype, shape, device or range. A label out of range is
            found on the CPU, and on other devices with ELECTRA_KERNELS_DEBUG=1.
    """
    check_tensor("logits", logits, FLOATING, None)
    terms = check_terms(logits.shape, labels, mask, pos_weight, label_smoothing, logits.device)
    denominator = normalizer_tensor(normalizer, reduction, logits.device)
    (smoothing,) = options((label_smoothing,), (0.0,))
    function = (
        _MaskedBCEWithLogits.apply
        if needs_autograd(logits, labels, *terms, denominator)
        else overload("masked_bce_with_logits", smoothing)
    )
    return function(logits, labels, *terms, denominator, smoothing, reduction)[0]


def check_terms(
    shape: torch.Size,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: float | Tensor | None,
    label_smoothing: float,
    device: torch.device,
) -> tuple[Tensor | None, Tensor | None]:
    """Check the arguments that both heads share; return mask and pos_weight, expanded to the shape of the logits."""
    check_tensor("labels", labels, _MASKS, device)
    check_shape("labels", labels, shape, "the shape of the logits")
    _refuse_gradient("labels", labels)
    check_fraction("label_smoothing", label_smoothing, zero=True)
    if mask is not None:
        check_tensor("mask", mask, _MASKS, device)
        mask = _expand("mask", mask, shape)
    if isinstance(pos_weight, Tensor):
        check_tensor("pos_weight", pos_weight, FLOATING, device)
        return mask, _expand("pos_weight", pos_weight, shape)
    if pos_weight is None:
        return mask, None
    return mask, scalar_tensor(check_weight("pos_weight", pos_weight), device).expand(shape)


def _refuse_gradient(name: str, value: Tensor) -> None:
    """Raise instead of silently returning no gradient for labels, mask or weight."""
    if value.requires_grad:
        raise ValueError(f"{name} requires grad, should be detached: the gradient flows to the logits alone")


def _expand(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    _refuse_gradient(name, value)
    if value.shape == shape:
        return value
    fits = value.dim() <= len(shape) and all(
        ours in (1, theirs) for ours, theirs in zip(reversed(value.shape), reversed(shape))
    )
    if not fits:
        raise ValueError(f"{name} has shape {list(value.shape)}, should broadcast to {list(shape)}")
    return value.expand(shape)
