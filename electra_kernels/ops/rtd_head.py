"""The discriminator's output: its last Linear(H → 1) fused with the per-token loss, so that hidden is read once."""

from typing import Any

import torch
from torch import Tensor

from electra_kernels.ops._autograd import needs_autograd, register_gradient, same_backend, save_backend
from electra_kernels.ops._checks import (
    FLOATING,
    autocast_dtype,
    check_parameter,
    check_tensor,
    normalizer_tensor,
)
from electra_kernels.ops._library import define, options, overload
from electra_kernels.ops._results import TokenLoss
from electra_kernels.ops.bce import check_terms
from electra_kernels.reference.common import accumulation_dtype


def _fake(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    normalizer: Tensor | None,
    label_smoothing: float,
    reduction: str,
    needs_parameter_gradients: bool,
) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(hidden.dtype)
    return (
        hidden.new_empty(labels.shape if reduction == "none" else (), dtype=dtype),
        hidden.new_empty(labels.shape, dtype=dtype),
        hidden.new_empty(4, dtype=torch.int64),
        hidden.new_empty((), dtype=torch.float64),
        hidden.new_empty(weight.shape, dtype=dtype),
        hidden.new_empty((), dtype=dtype),
    )


def _fake_backward(
    grad_loss: Tensor, hidden: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), weight.new_empty(())


define("linear_masked_bce", _fake)
define("linear_masked_bce_backward", _fake_backward)


class _LinearMaskedBCE(torch.autograd.Function):
    """The forward sums the gradients of weight and bias; the backward scales them and writes the gradient of hidden."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *_, label_smoothing, _, _ = arguments
        output = overload("linear_masked_bce", label_smoothing)(*arguments)
        _LinearMaskedBCE.save(ctx, arguments, output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        save_backend(ctx)
        hidden, weight, bias, labels, mask, pos_weight, _, ctx.label_smoothing, ctx.reduction, _ = inputs
        _, logits, _, denominator, grad_weight, grad_bias = output
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(
            hidden, weight, logits, labels, mask, pos_weight, denominator, grad_weight, grad_bias
        )

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * 10
        gradient = overload("linear_masked_bce_backward", ctx.label_smoothing)
        with same_backend(ctx, grad_loss):
            grad_hidden, grad_weight, grad_bias = gradient(
                grad_loss, *ctx.saved_tensors, ctx.label_smoothing, ctx.reduction
            )
        return grad_hidden, grad_weight, grad_bias if ctx.has_bias else None, *[None] * 7


register_gradient("linear_masked_bce", _LinearMaskedBCE)


def linear_masked_bce(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    pos_weight: float | Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> TokenLoss:
    """`masked_bce_with_logits` of hidden @ weight + bias: the loss of ELECTRA's discriminator (section 2).

    The logits are computed in float32 for every dtype of hidden. The forward reads hidden once and, with "mean" and
    "sum", also adds up the gradients of weight and bias. The backward writes the gradient of hidden once.

    Args:
        hidden: [..., H] float32, bfloat16 or float16, any strides.
        weight: [H] or [1, H], of hidden's dtype or float32.
        bias: one element ([], [1]) of weight's dtype, or None.
        labels: [...]; bool, int (0, 1, or -100 = ignored) or float in [0, 1].
        mask: broadcasts to [...]; bool, int (nonzero = set) or float (a weight per token).
        pos_weight, label_smoothing, reduction, normalizer: as for `masked_bce_with_logits`.

    Returns:
        ``loss`` float32, [] or, with "none", [...]. ``logits`` [...] float32 without gradient. ``counts`` int64 [4]:
        true positives, false positives, false negatives and true negatives at logit 0 among the tokens whose mask
        is set.

    Raises:
        TypeError, ValueError: as for `masked_bce_with_logits`.
    """
    check_tensor("hidden", hidden, FLOATING, None)
    if hidden.dim() == 0 or hidden.shape[-1] == 0:
        raise ValueError(f"hidden has shape {list(hidden.shape)}, should be [..., H] with H at least 1")
    hidden = hidden.to(autocast_dtype(hidden))
    width = hidden.shape[-1:]
    if isinstance(weight, Tensor) and weight.dim() == 2:
        check_parameter("weight", weight, hidden, (1, *width), "[H] or [1, H]")
        weight = weight.reshape(width)
    check_parameter("weight", weight, hidden, width, "[H] or [1, H]")
    if bias is not None:
        check_tensor("bias", bias, (weight.dtype,), hidden.device)
        if bias.numel() != 1:
            raise ValueError(f"bias has shape {list(bias.shape)}, should have one element")
        bias = bias.reshape(())
    terms = check_terms(hidden.shape[:-1], labels, mask, pos_weight, label_smoothing, hidden.device)
    denominator = normalizer_tensor(normalizer, reduction, hidden.device)
    needs = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    (smoothing,) = options((label_smoothing,), (0.0,))
    arguments = (hidden, weight, bias, labels, *terms, denominator)
    function = (
        _LinearMaskedBCE.apply if needs_autograd(*arguments) else overload("linear_masked_bce", smoothing)
    )
    loss, logits, counts, *_ = function(*arguments, smoothing, reduction, needs)
    return TokenLoss(loss, logits, counts)
