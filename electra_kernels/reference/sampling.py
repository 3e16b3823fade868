"""Sampling for replacement in plain PyTorch: exact categorical draws by inverse CDF, and what they replace.

The specification of the ops in `electra_kernels.ops.sampling`. A row is cut into tiles; one uniform number
picks a tile by inverse CDF over the tile sums and, with what is left of it, a token inside that tile.
"""

import torch
from torch import Tensor

from electra_kernels.reference.common import accumulation_dtype

TILE = 512  # tokens; small enough that only a sliver of the row is read twice


def draw_tokens(logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float) -> Tensor:
    """Draw one token per row from softmax(logits / temperature) without its banned token.

    Args:
        logits: [N, V] float32 or float64.
        banned: [N] int64, the token that row may not draw; negative bans nothing.
        uniforms: [N] float64 in [0, 1).

    Returns:
        [N] int64; -1 where the row holds NaN or +inf, or nothing is left to draw.
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
    tile, residual = _invert_cdf(sums, uniforms[:, None])
    chosen = tiles.gather(1, tile[:, :, None].expand(-1, -1, TILE)).squeeze(1).double()
    # The fraction of the way through the tile survives any difference in rounding between the two passes.
    offset, _ = _invert_cdf(chosen, residual)
    return torch.where(drawable, (tile * TILE + offset).squeeze(-1), -1)


def _padded_to_tiles(logits: Tensor) -> Tensor:
    rows, columns = logits.shape
    padded = logits.new_empty(rows, columns + -columns % TILE)
    padded[:, columns:] = 0
    return padded


def _invert_cdf(weights: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """First index whose prefix sum exceeds fraction x total, and the fraction of its own weight that is left.

    ``weights`` [N, M] float64, ``fraction`` [N, 1] in [0, 1]. The point stays below the total and the
    residual above zero whatever the rounding, so an index of weight 0 is never returned.
    """
    prefix = weights.cumsum(-1)
    total = prefix[:, -1:]
    point = torch.minimum(fraction * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(prefix, point, right=True).clamp_(max=weights.shape[-1] - 1)
    weight = weights.gather(-1, index)
    residual = (point - (prefix.gather(-1, index) - weight)) / weight
    return index, residual.clamp_(min=0)


def log_sum_exp(x: Tensor) -> Tensor:
    """x [N, V] → [N, 2]: the maximum m of each row, 0 if it is not finite, and the logarithm of the sum of exp(x - m).

    Their sum is the log-sum-exp. In one number, an offset that all logits of a row share would cost the logarithm's
    digits.
    """
    maximum = x.amax(-1, keepdim=True)
    shift = maximum.where(maximum.isfinite(), 0)
    return torch.cat([shift, (x - shift).exp_().sum(-1, keepdim=True).log_()], dim=-1)


def soft_max(x: Tensor, logsumexp_parts: Tensor) -> Tensor:
    """exp(x - logsumexp) of x [..., V], by the two parts [..., 2] one after the other: x - m is exact near m."""
    maximum, log_sum = logsumexp_parts.split(1, dim=-1)
    return ((x - maximum) - log_sum).exp_()


def sample_tokens(
    logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """logits [..., V] → the log-sum-exp [...] of the raw logits at temperature 1, tokens [...] int64, and the
    log-sum-exp in its two parts [..., 2]."""
    rows = logits.reshape(-1, logits.shape[-1]).to(accumulation_dtype(logits.dtype))
    banned = None if banned is None else banned.reshape(-1)
    tokens = draw_tokens(rows, banned, uniforms.reshape(-1), temperature).reshape(uniforms.shape)
    parts = log_sum_exp(rows).reshape(*uniforms.shape, 2)
    return parts.sum(-1), tokens, parts


def sample_tokens_backward(grad_logsumexp: Tensor, logits: Tensor, logsumexp_parts: Tensor) -> Tensor:
    """d logsumexp / d logits = softmax(logits)."""
    gradient = soft_max(logits.to(accumulation_dtype(logits.dtype)), logsumexp_parts)
    return gradient.mul_(grad_logsumexp[..., None]).to(logits.dtype).contiguous()
