"""Sampling in plain PyTorch: the specification of the op in `electra_kernels.ops.sampling`.

A row is cut into tiles. One uniform picks a tile by inverse CDF over the tile sums, and the rest of it picks a token
inside that tile, also by inverse CDF.
"""

import torch
from torch import Tensor

from electra_kernels.reference.common import accumulation_dtype

TILE = 512  # tokens; a small part of the row, which is read twice


def draw_tokens(logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float) -> Tensor:
    """Draw one token per row from softmax(logits / temperature), never the banned token.

    Args:
        logits: [N, V] float32 or float64.
        banned: [N] int64, the token that the row may not draw; negative bans nothing.
        uniforms: [N] float64 in [0, 1).

    Returns:
        [N] int64; -1 where the row has NaN or +inf, or nothing is left to draw.
    """
    drawable = logits.amax(-1) < torch.inf  # False for NaN too
    if banned is not None:
        columns = torch.arange(logits.shape[-1], device=logits.device)
        logits = logits.masked_fill(columns == banned[:, None], -torch.inf)
    maximum = logits.amax(-1, keepdim=True)
    drawable &= maximum.isfinite().squeeze(-1)

    weights = _padded_to_tiles(logits)
    torch.exp((logits - maximum).div_(temperature), out=weights[:, : logits.shape[-1]])
    tiles = weights.unflatten(-1, (-1, TILE))  # [N, V / TILE, TILE]
    sums = tiles.sum(-1).double()
    tile, residual = invert_cdf(sums, uniforms[:, None])
    chosen = tiles.gather(1, tile[:, :, None].expand(-1, -1, TILE)).squeeze(1).double()
    # The residual is a fraction of the tile, so the two passes may round differently.
    offset, _ = invert_cdf(chosen, residual)
    return torch.where(drawable, (tile * TILE + offset).squeeze(-1), -1)


def _padded_to_tiles(logits: Tensor) -> Tensor:
    rows, columns = logits.shape
    padded = logits.new_empty(rows, columns + -columns % TILE)
    padded[:, columns:] = 0
    return padded


def invert_cdf(weights: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """The first index whose prefix sum exceeds fraction x total, and the rest as a fraction of that index's weight.

    ``weights`` [N, M] float64, ``fraction`` [N, 1] in [0, 1]. The point is clamped below the total and the residual
    above zero, so rounding never selects an index of weight 0.
    """
    prefix = weights.cumsum(-1)
    total = prefix[:, -1:]
    point = torch.minimum(fraction * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(prefix, point, right=True).clamp_(max=weights.shape[-1] - 1)
    weight = weights.gather(-1, index)
    residual = (point - (prefix.gather(-1, index) - weight)) / weight
    return index, residual.clamp_(min=0)


def log_sum_exp(x: Tensor) -> Tensor:
    """x [N, V] → [N, 2]: the maximum m of each row (0 if it is not finite) and the logarithm of the sum of exp(x - m).

    Their sum is the log-sum-exp. One number would lose the digits of the logarithm to an offset that all logits share.
    """
    maximum = x.amax(-1, keepdim=True)
    shift = maximum.where(maximum.isfinite(), 0)
    return torch.cat([shift, (x - shift).exp_().sum(-1, keepdim=True).log_()], dim=-1)


def soft_max(x: Tensor, logsumexp_parts: Tensor) -> Tensor:
    """exp(x - logsumexp) of x [..., V]. The two parts [..., 2] are subtracted in turn: x - m is exact near m."""
    maximum, log_sum = logsumexp_parts.split(1, dim=-1)
    return ((x - maximum) - log_sum).exp_()


def sample_tokens(
    logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """logits [..., V] → the log-sum-exp [...] of the raw logits at temperature 1, tokens [...] int64, and the
    log-sum-exp in two parts [..., 2].
    """
    rows = logits.reshape(-1, logits.shape[-1]).to(accumulation_dtype(logits.dtype))
    banned = None if banned is None else banned.reshape(-1)
    tokens = draw_tokens(rows, banned, uniforms.reshape(-1), temperature).reshape(uniforms.shape)
    parts = log_sum_exp(rows).reshape(*uniforms.shape, 2)
    return parts.sum(-1), tokens, parts


def sample_tokens_backward(grad_logsumexp: Tensor, logits: Tensor, logsumexp_parts: Tensor) -> Tensor:
    """d logsumexp / d logits = softmax(logits)."""
    gradient = soft_max(logits.to(accumulation_dtype(logits.dtype)), logsumexp_parts)
    return gradient.mul_(grad_logsumexp[..., None]).to(logits.dtype).contiguous()
