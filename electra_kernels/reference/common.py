"""Conventions that several of the reference ops share: accumulation dtype, flags and ignored labels."""

import torch
from torch import Tensor

IGNORED_LABEL = -100


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays float64 (for gradcheck); every other dtype is accumulated in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_flags(tensor: Tensor) -> Tensor:
    """A bool tensor whose bytes are 0 or 1. Torch can build one with other bytes; every nonzero byte counts as True."""
    return tensor.view(torch.uint8) != 0


def ignored_labels(labels: Tensor) -> Tensor:
    """True where an integer label is -100. An unsigned dtype has no -100, and its 156 is not ignored."""
    if not labels.dtype.is_signed:
        return torch.zeros_like(labels, dtype=torch.bool)
    return labels == IGNORED_LABEL


def safe_reciprocal(denominator: Tensor) -> Tensor:
    """1 / denominator, or 0 if the denominator is 0: nothing was counted, so loss and gradient are 0 and never NaN."""
    return denominator.reciprocal().nan_to_num(nan=torch.nan, posinf=0.0)


def reduce_losses(
    losses: Tensor, weight: Tensor, normalizer: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    """The loss after ``reduction``, and the float64 denominator [] that it was divided by."""
    if reduction != "mean":
        denominator = torch.ones((), dtype=torch.float64, device=losses.device)
        return (losses if reduction == "none" else losses.sum()), denominator
    denominator = (
        weight.sum(dtype=torch.float64) if normalizer is None else normalizer.to(torch.float64, copy=True)
    )
    total = losses.sum(dtype=torch.float64)
    return (total * safe_reciprocal(denominator)).to(losses.dtype), denominator
