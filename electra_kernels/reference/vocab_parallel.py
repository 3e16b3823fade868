"""Loss and draw of a row whose logits are spread over slices of the vocabulary, in plain PyTorch.

Each slice reduces its part of the row to four numbers, and the numbers of all slices give the loss, the slice that the
token is drawn from, and the uniform of the draw inside that slice.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from electra_kernels.reference.mlm_head import biased, target_logits_of
from electra_kernels.reference.sampling import invert_cdf


def row_sums(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int,
    temperature: float,
    ban_original: bool,
    sums: Tensor,
) -> None:
    """Write into ``sums`` [N, 4] what one slice of a vocabulary that is spread over ranks knows of each row.

    The columns are the maximum, the sum of exp(x - maximum), the sum of exp((x - maximum) / temperature), and the
    logit of the target, -inf if another slice has it. With ``ban_original`` the first three leave out the target, but
    a NaN or +inf there may show in them. The maximum is NaN or +inf in a row that has one. An ignored row has zeros.
    """
    x = biased(logits, bias)
    target_logits, bad = target_logits_of(x, targets), x.amax(-1)
    if ban_original:
        x = x.masked_fill(torch.arange(x.shape[-1], device=x.device) == targets[:, None], -torch.inf)
    maximum = x.amax(-1)
    shifted = x - maximum.where(maximum.isfinite(), 0)[:, None]
    totals = shifted.exp().sum(-1), (shifted / temperature).exp().sum(-1)
    maximum = maximum.where(bad < torch.inf, bad)
    columns = torch.stack([maximum, *totals, target_logits], dim=-1)
    sums.copy_(columns.masked_fill((targets == ignore_index)[:, None], 0))


class CombinedRows(NamedTuple):
    """What all slices together say of N rows.

    Attributes:
        losses: [N], 0 in ignored rows.
        is_top1: [N] bool.
        logsumexp_parts: [N, 2].
        owner: [N] int64, the slice that the token is drawn from; -1 if none does.
        fraction: [N] float64 in [0, 1), the uniform of the owner's draw.
    """

    losses: Tensor
    is_top1: Tensor
    logsumexp_parts: Tensor
    owner: Tensor
    fraction: Tensor


def combine(
    sums: Tensor,
    counted: Tensor,
    uniforms: Tensor,
    z_loss: float,
    temperature: float,
    ban_original: bool,
) -> CombinedRows:
    """The sums [R, N, 4] of R slices → what `mlm_head.row_statistics` says of the whole rows, except for the token.

    ``counted`` [N] bool is False in ignored rows, ``uniforms`` are [N]. The arithmetic is in float64 and the same on
    every rank, and so are the results.
    """
    maxima, totals, drawables, target_logits = sums.double().unbind(-1)
    target_logit, others = target_logits.amax(0), maxima.amax(0)
    maximum = torch.maximum(others, target_logit)
    is_good = maximum.isfinite()
    shift = maximum.where(is_good, 0)
    total = (totals * (maxima - shift).exp()).sum(0)
    if ban_original:
        total = total + (target_logit - shift).exp()
    log_sum = total.log().where(is_good, torch.nan)
    logsumexp = shift + log_sum
    losses = (maximum - target_logit) + log_sum + z_loss * logsumexp * logsumexp

    can_draw = is_good & counted & others.isfinite()
    weights = drawables * ((maxima - others) / temperature).exp()
    weights = weights.where(can_draw, 0).T.contiguous()
    owner, rest = invert_cdf(weights, uniforms[:, None])
    can_draw &= weights.sum(-1) > 0
    parts = torch.stack([shift, log_sum], dim=-1).where(counted[:, None], 0)
    return CombinedRows(
        losses.where(counted, 0).to(sums.dtype),
        (target_logit == maximum) & counted,
        parts.to(sums.dtype),
        owner.squeeze(-1).where(can_draw, -1),
        rest.squeeze(-1).where(can_draw, 0).clamp(0, 1 - 2**-53),
    )
