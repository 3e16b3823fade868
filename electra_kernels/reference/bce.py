"""Masked binary cross-entropy in plain PyTorch: the specification of the op in `electra_kernels.ops.bce`.

For a token with logit x, smoothed label y, positive weight p and mask weight m (torch.nn.BCEWithLogitsLoss):

    loss   = m (p y softplus(-x) + (1 - y) softplus(x))
    d/dx   = m ((1 - y) sigmoid(x) - p y sigmoid(-x))
"""

import torch
from torch import Tensor

from electra_kernels.reference.common import (
    accumulation_dtype,
    as_flags,
    ignored_labels,
    reduce_losses,
    safe_reciprocal,
)


def label_terms(
    labels: Tensor, mask: Tensor | None, pos_weight: Tensor | None, label_smoothing: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The weight m of each token (0 = ignored), and the factors of softplus(-x) and softplus(x)."""
    weight = _token_weights(labels, mask, dtype)
    labels = (as_flags(labels) if labels.dtype == torch.bool else labels).to(dtype).where(weight != 0, 0)
    smoothed = labels * (1.0 - label_smoothing) + 0.5 * label_smoothing
    positive = smoothed if pos_weight is None else smoothed * pos_weight.to(dtype)
    return weight, positive, 1.0 - smoothed


def _token_weights(labels: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    if mask is None:
        weight = torch.ones(labels.shape, dtype=dtype, device=labels.device)
    else:
        weight = mask.to(dtype) if mask.is_floating_point() else _is_set(mask).to(dtype)
    return weight if labels.is_floating_point() else weight.masked_fill(ignored_labels(labels), 0)


def _is_set(mask: Tensor) -> Tensor:
    return as_flags(mask) if mask.dtype == torch.bool else mask != 0


def token_losses(logits: Tensor, weight: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """m (p y softplus(-x) + (1 - y) softplus(x)); a factor of 0 times an infinite softplus is 0."""
    losses = (positive * softplus(-logits)).where(positive != 0, 0)
    losses = losses + (negative * softplus(logits)).where(negative != 0, 0)
    losses = losses.where(~logits.isnan(), torch.nan)
    return (losses * weight).where(weight != 0, 0)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) for any x; torch.nn.functional.softplus returns x above a threshold."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def token_gradients(logits: Tensor, weight: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """m ((1 - y) sigmoid(x) - p y sigmoid(-x))"""
    gradient = negative * torch.sigmoid(logits) - positive * torch.sigmoid(-logits)
    return (gradient * weight).where(weight != 0, 0)


def confusion_counts(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """[4] int64: true and false positives, false and true negatives at logit 0 and label 0.5."""
    counted = weight != 0
    predicted, actual = logits > 0, labels > 0.5
    cells = [predicted & actual, predicted & ~actual, ~predicted & actual, ~predicted & ~actual]
    return torch.stack([(cell & counted).sum() for cell in cells])


def masked_bce_with_logits(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    normalizer: Tensor | None,
    label_smoothing: float,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """All tensors have the shape of logits. Returns loss, confusion counts [4], denominator []."""
    x = logits.to(accumulation_dtype(logits.dtype))
    terms = label_terms(labels, mask, pos_weight, label_smoothing, x.dtype)
    loss, denominator = reduce_losses(token_losses(x, *terms), terms[0], normalizer, reduction)
    return loss.contiguous(), confusion_counts(x, labels, terms[0]), denominator


def masked_bce_with_logits_backward(
    grad_loss: Tensor,
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    denominator: Tensor,
    label_smoothing: float,
) -> Tensor:
    """Gradient of logits; grad_loss is [] or, for reduction "none", has the shape of logits."""
    x = logits.to(accumulation_dtype(logits.dtype))
    terms = label_terms(labels, mask, pos_weight, label_smoothing, x.dtype)
    scale = (grad_loss * safe_reciprocal(denominator)).to(x.dtype)
    gradient = token_gradients(x, *terms) * scale.where(terms[0] != 0, 0)
    return gradient.to(logits.dtype).contiguous()
