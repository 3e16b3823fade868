"""Reduce the losses of N rows to one loss and its denominator: see electra_kernels/ops/mlm_head.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch

_BLOCK, _WARPS = 1024, 8


@triton.jit
def reciprocal_or_zero(denominator):
    """1 / denominator, or 0 if nothing was counted: loss and gradient are then 0, never NaN."""
    return tl.where(denominator != 0, 1.0 / tl.where(denominator != 0, denominator, 1.0), 0.0)


@triton.jit(
    do_not_specialize=["count", "ignore_index"],
    do_not_specialize_on_alignment=["losses", "targets"],
)
def reduce_losses(
    losses,  # [N] float32, or None to compute the denominator alone
    targets,  # [N] int64
    normalizer,  # [] float64, or None
    loss,  # [] float32; not written without losses
    denominator,  # [] float64
    reciprocal,  # [] float32: 1 / denominator
    count,  # N
    ignore_index,  # Target of the rows that are not counted.
    MEAN: tl.constexpr,  # Whether the denominator is the number of counted rows if there is no normalizer.
    BLOCK: tl.constexpr,  # Rows of an iteration.
):
    """Sum the losses, count the targets and divide, in one pass over losses and targets.

    A single program keeps the order of the sum fixed. It reads N numbers, few beside the N rows of logits, and its
    results stay on the device, so the host never waits for them.
    """
    total = tl.zeros([BLOCK], tl.float64)
    counted = tl.zeros([BLOCK], tl.int64)
    for start in range(0, count, BLOCK):
        row = start + tl.arange(0, BLOCK)
        inside = row < count
        if losses is not None:
            total += tl.load(losses + row, inside, 0.0).to(tl.float64)
        if MEAN and normalizer is None:
            target = tl.load(targets + row, inside, 0)
            counted += (inside & (target != ignore_index)).to(tl.int64)
    divisor = tl.sum(counted, 0).to(tl.float64)
    if normalizer is not None:
        divisor = tl.load(normalizer)
    elif not MEAN:
        divisor = divisor + 1
    factor = reciprocal_or_zero(divisor)
    tl.store(denominator, divisor)
    tl.store(reciprocal, factor.to(tl.float32))
    if losses is not None:
        tl.store(loss, (tl.sum(total, 0) * factor).to(tl.float32))


def reduce_rows(
    losses: Tensor | None, targets: Tensor, normalizer: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch `reduce_losses`.

    Args:
        losses: [...] float32 without gaps, or None.
        targets: [...] int64.
        normalizer: [] float64, or None.
        ignore_index: target of the rows that are not counted.
        reduction: "mean" counts rows; otherwise the denominator is 1. A normalizer overrides both.

    Returns:
        The loss [] float32 (unwritten without ``losses``), the denominator [] float64, and its reciprocal [] float32.
    """
    loss, reciprocal = (torch.empty((), dtype=torch.float32, device=targets.device) for _ in range(2))
    denominator = torch.empty((), dtype=torch.float64, device=targets.device)
    launch.run(
        reduce_losses,
        1,
        *(losses, targets.contiguous(), normalizer, loss, denominator, reciprocal),
        *(targets.numel(), ignore_index),
        MEAN=reduction == "mean",
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )
    return loss, denominator, reciprocal
