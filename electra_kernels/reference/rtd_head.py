"""The discriminator's last Linear(H → 1) with its loss in plain PyTorch: the specification of `ops.rtd_head`."""

import torch
from torch import Tensor

from electra_kernels.reference.bce import (
    confusion_counts,
    label_terms,
    token_gradients,
    token_losses,
)
from electra_kernels.reference.common import accumulation_dtype, reduce_losses, safe_reciprocal


def linear_masked_bce(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden [..., H], weight [H], bias [] → loss, logits [...], counts [4], denominator [], and the gradients
    of weight [H] and bias [] before they are divided by the denominator (zeros unless they are needed).

    The gradients of the parameters are sums over tokens that the forward can add up while it reads ``hidden``, so the
    backward does not read it again. With reduction "none" they need the upstream gradient.
    """
    dtype = accumulation_dtype(hidden.dtype)
    logits = torch.mv(hidden.to(dtype).reshape(-1, hidden.shape[-1]), weight.to(dtype)).reshape(labels.shape)
    if bias is not None:
        logits = logits + bias.to(dtype)
    terms = label_terms(labels, mask, pos_weight, label_smoothing, dtype)
    loss, denominator = reduce_losses(token_losses(logits, *terms), terms[0], normalizer, reduction)
    counts = confusion_counts(logits, labels, terms[0])
    if needs_parameter_gradients and reduction != "none":
        grad_weight, grad_bias = _parameter_gradients(token_gradients(logits, *terms), hidden)
    else:
        grad_weight, grad_bias = torch.zeros_like(weight, dtype=dtype), hidden.new_zeros((), dtype=dtype)
    return loss.contiguous(), logits, counts, denominator, grad_weight, grad_bias


def _parameter_gradients(token_gradient: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over tokens. A token without gradient adds nothing, even if its hidden state is not finite."""
    flat = token_gradient.reshape(-1)
    rows = hidden.to(flat.dtype).reshape(-1, hidden.shape[-1])
    rows = rows.masked_fill((flat == 0)[:, None], 0)
    return torch.mv(rows.T, flat), flat.sum()


def linear_masked_bce_backward(
    grad_loss: Tensor,
    hidden: Tensor,
    weight: Tensor,
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    denominator: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    label_smoothing: float,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; the forward summed the last two unless reduction is "none"."""
    terms = label_terms(labels, mask, pos_weight, label_smoothing, logits.dtype)
    scale = (grad_loss * safe_reciprocal(denominator)).to(logits.dtype)
    token_gradient = token_gradients(logits, *terms) * scale.where(terms[0] != 0, 0)
    grad_hidden = token_gradient[..., None] * weight.to(logits.dtype)
    if reduction == "none":
        grad_weight, grad_bias = _parameter_gradients(token_gradient, hidden)
    else:
        grad_weight, grad_bias = grad_weight * scale, grad_bias * scale
    return grad_hidden.to(hidden.dtype).contiguous(), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)
