"""Draw a token from a row of logits, given the statistics of its tiles (rows.py) and one uniform number.

The draw reads the tile that it chooses a second time. Arguments mean the same as in rows.py.
"""

import triton
import triton.language as tl

from electra_kernels.triton.rows import INFINITY, TILE, exponential, finite_or_zero, load_columns


@triton.jit
def first_index_above(weights, prefix, point):
    """The first index whose prefix sum exceeds the point, or the last with a weight if rounding leaves none.

    An index of weight 0 is returned only if there is no other: the prefix sums of a parallel scan may not be monotonic.
    """
    index = tl.arange(0, weights.shape[0])
    has_weight = weights > 0
    first = tl.min(tl.where(has_weight & (prefix > point), index, weights.shape[0]), 0)
    return tl.minimum(first, tl.max(tl.where(has_weight, index, 0), 0))


@triton.jit
def draw_tile(shares, fraction):
    """Draw a tile by inverse CDF over its float64 share of the row.

    Returns the tile, and the position of ``fraction`` inside the tile's own share, in [0, 1].
    """
    prefix = tl.cumsum(shares, 0)
    point = fraction * tl.sum(shares, 0)
    tile = first_index_above(shares, prefix, point)
    is_tile = tl.arange(0, shares.shape[0]) == tile
    share = tl.sum(tl.where(is_tile, shares, 0.0), 0)
    below = tl.sum(tl.where(is_tile, prefix, 0.0), 0) - share
    return tile, tl.minimum(tl.maximum((point - below) / tl.where(share > 0, share, 1.0), 0.0), 1.0)


@triton.jit
def load_tile(row, tile, banned, size, step, VECTOR: tl.constexpr, BANS: tl.constexpr):
    """Logits of one tile [TILE] without the banned token, minus their maximum; and that maximum."""
    columns = tile * TILE + tl.arange(0, TILE)
    x = load_columns(row, columns, size, step, VECTOR)
    if BANS:
        x = tl.where(columns == banned, -INFINITY, x)
    maximum = tl.max(x, 0)
    return x - finite_or_zero(maximum), maximum


@triton.jit
def draw_token(
    row,
    maxima,  # [TILES] float32
    drawable,  # [TILES] float32, drawable sums
    fraction,  # float64, the uniform number
    banned,
    size,
    step,
    inverse_temperature,
    VECTOR: tl.constexpr,
    BANS: tl.constexpr,  # Whether ``banned`` is used. A negative one bans nothing.
):
    """Draw a token of the row by inverse CDF, first over its tiles, then inside one; -1 if nothing can be drawn.

    The tile of the banned token is read again without this token. If the token's term were subtracted from the tile's
    sum instead, a dominant one would leave nothing but rounding errors.
    """
    if BANS:
        tile = tl.maximum(banned, 0).to(tl.int32) // TILE
        x, maximum = load_tile(row, tile, banned, size, step, VECTOR, BANS)
        is_tile = tl.arange(0, maxima.shape[0]) == tile
        maxima = tl.where(is_tile, maximum, maxima)
        drawable = tl.where(is_tile, tl.sum(exponential(x * inverse_temperature), 0), drawable)
    maximum = tl.max(maxima, 0)
    if maxima.shape[0] == 1:
        tile = 0
    else:
        shares = drawable * exponential((maxima - finite_or_zero(maximum)) * inverse_temperature)
        # The rest of the fraction is relative to the tile's share, so the draw inside the tile is consistent with the
        # draw of the tile, although their sums are rounded differently.
        tile, fraction = draw_tile(shares.to(tl.float64), fraction)
    x, _ = load_tile(row, tile, banned, size, step, VECTOR, BANS)
    weights = exponential(x * inverse_temperature).to(tl.float64)
    offset = first_index_above(weights, tl.cumsum(weights, 0), fraction * tl.sum(weights, 0))
    return tl.where(maximum > -INFINITY, tile * TILE + offset, -1)
