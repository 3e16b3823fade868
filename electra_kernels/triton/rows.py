"""Device code that sampling and the masked-LM head share: the visit to a row of logits, the draw, the soft-max.

A row is read once, in blocks of WARPS tiles of `TILE` columns, each tile by one warp: a block is [TILE / INNER x WARPS,
INNER], whose element (s WARPS + w, i) is column w TILE + s INNER + i. A warp's vector load takes INNER neighbours, and
maximum and sum of a tile need no other warp. The sum of a tile is that of exp(x - its own maximum), always added up
in the same order, so every kernel that visits a row gets the same bits, whatever its warps.

The draw (one uniform number per row) reads the tile that it has chosen a second time.
"""

import triton
import triton.language as tl

TILE = tl.constexpr(1024)
LOG2_E = tl.constexpr(1.4426950408889634)
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def exponential(x):
    """exp(x), with 0 for a denormal result: for terms of a sum or weights of a draw, where another term is about 1.

    Gradients need `tl.exp`, as an upstream gradient may lift a denormal number above the smallest normal one. Its
    care for denormal results takes three instructions, as many as the rest of it.
    """
    return tl.exp2(x * LOG2_E)


@triton.jit
def finite_or_zero(x):
    """What to subtract from a tile whose maximum is x: in a tile of nothing but -inf, -inf would make NaN."""
    return tl.where(tl.abs(x) < INFINITY, x, 0.0)


@triton.jit
def expm1(x):
    """exp(x) - 1 for x <= 0, without cancellation near 0."""
    near = x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040)))))))
    return tl.where(x > -0.35, near, tl.exp(x) - 1)


@triton.jit
def row_start(offsets, stride, row, VECTOR: tl.constexpr):
    """Elements from the pointer to the row: 64 bits, and a multiple of VECTOR."""
    start = row.to(tl.int64) * stride if offsets is None else tl.load(offsets + row)
    return tl.multiple_of(start, VECTOR)


@triton.jit
def places(columns, step, VECTOR: tl.constexpr):
    # VECTOR is 0 where the columns are no neighbours.
    return columns.to(tl.int64) * step if VECTOR == 0 else columns


@triton.jit
def is_inside(columns, size, VECTOR: tl.constexpr):
    """Columns below size, asked of whole vectors: they end with the row or in padding that is the kernel's own."""
    return columns < size if VECTOR <= 1 else columns // VECTOR * VECTOR < size


@triton.jit
def block_columns(first_tile, VECTOR: tl.constexpr, WARPS: tl.constexpr):
    """[S W, I]: two dimensions, of which Triton gives the rows to the warps in turn. Of three, [S, W, I], its versions
    spread one or the other."""
    INNER: tl.constexpr = 32 * (VECTOR if VECTOR > 1 else 1)
    row = tl.arange(0, TILE // INNER * WARPS)[:, None]
    return (first_tile + row % WARPS) * TILE + row // WARPS * INNER + tl.arange(0, INNER)[None, :]


@triton.jit
def load_columns(row, bias, columns, size, step, VECTOR: tl.constexpr, BIAS_VECTOR: tl.constexpr):
    """Logits (+ bias) as float32; -inf beyond the row."""
    inside = is_inside(columns, size, VECTOR)
    x = tl.load(row + places(columns, step, VECTOR), inside, -INFINITY)
    x = x.to(tl.float32)
    if bias is not None:
        # The same for every row: it had better stay in the L1 cache.
        inside = is_inside(columns, size, BIAS_VECTOR)
        x += tl.load(bias + columns, inside, 0.0, eviction_policy="evict_last")
    return x


@triton.jit
def load_logit(row, bias, column, size, step, VECTOR: tl.constexpr):
    """One logit (+ bias); NaN where there is no such column."""
    is_column = (column >= 0) & (column < size)
    x = tl.load(row + places(column, step, VECTOR), is_column, float("nan")).to(tl.float32)
    return x if bias is None else x + tl.load(bias + column, is_column, 0.0)


@triton.jit
def by_tile(x, WARPS: tl.constexpr):
    """[S W, I] → [S, W, I], where it is"""
    return tl.reshape(x, [x.shape[0] // WARPS, WARPS, x.shape[1]])


@triton.jit
def tile_maxima(x):
    """[S, W, I] → [W]. A NaN may be missing: the sum of exponentials has it."""
    return tl.max(tl.max(x, 0), 1)


@triton.jit
def tile_sums(x):
    """[S, W, I] → [W]"""
    return tl.sum(tl.sum(x, 0), 1)


@triton.jit
def part_of_row(part, parts, tiles, WARPS: tl.constexpr):
    """First tile of a part and the one after its last; none may be left for the last parts."""
    share = tl.cdiv(tl.cdiv(tiles, WARPS), parts) * WARPS
    return part * share, tl.minimum(part * share + share, tiles)


@triton.jit
def visit_tiles(
    row,
    bias,
    size,
    step,
    inverse_temperature,
    statistics,
    first_tile,
    last_tile,
    tiles,
    VECTOR: tl.constexpr,
    BIAS_VECTOR: tl.constexpr,
    WARPS: tl.constexpr,
    TEMPERED: tl.constexpr,
):
    """Write maximum, sum and drawable sum of tiles [first_tile, last_tile) to ``statistics`` [3, tiles]."""
    for tile in range(first_tile, last_tile, WARPS):
        columns = block_columns(tile, VECTOR, WARPS)
        x = by_tile(load_columns(row, bias, columns, size, step, VECTOR, BIAS_VECTOR), WARPS)
        maxima = tile_maxima(x)
        x -= finite_or_zero(maxima)[None, :, None]
        index = tile + tl.arange(0, WARPS)
        tl.store(statistics + index, maxima, index < last_tile)
        tl.store(statistics + tiles + index, tile_sums(exponential(x)), index < last_tile)
        if TEMPERED:
            drawable = tile_sums(exponential(x * inverse_temperature))
            tl.store(statistics + 2 * tiles + index, drawable, index < last_tile)


@triton.jit
def load_statistics(statistics, tiles, TILES: tl.constexpr, TEMPERED: tl.constexpr):
    """Maxima, sums and drawable sums, each [TILES], of a row that has ``tiles`` of them."""
    index = tl.arange(0, TILES)
    inside = index < tiles
    maxima = tl.load(statistics + index, inside, -INFINITY)
    sums = tl.load(statistics + tiles + index, inside, 0.0)
    drawable = tl.load(statistics + 2 * tiles + index, inside, 0.0) if TEMPERED else sums
    return maxima, sums, drawable


@triton.jit
def row_total(maxima, sums):
    """Maximum of the row and the logarithm of its sum of exp(x - maximum); whether it has a number to draw from
    and neither NaN nor +inf."""
    maximum = tl.max(maxima, 0)
    total = tl.sum((sums * exponential(maxima - finite_or_zero(maximum))).to(tl.float64), 0).to(tl.float32)
    return maximum, tl.log(total), (total < INFINITY) & (maximum > -INFINITY)


@triton.jit
def store_logsumexp(parts, row, maximum, log_total):
    """Into parts [N, 2]: in one number, an offset that all logits of the row share would cost log_total's digits."""
    tl.store(parts + 2 * row, maximum)
    tl.store(parts + 2 * row + 1, log_total)


@triton.jit
def load_logsumexp(parts, row):
    """Its two parts, to be subtracted one after the other: x - maximum is exact near the maximum."""
    return tl.load(parts + 2 * row), tl.load(parts + 2 * row + 1)


@triton.jit
def first_above(weights, prefix, point):
    """First index whose prefix sum exceeds the point; the last that has a weight, if rounding leaves none.

    Never an index of weight 0, unless there is no other: the prefix sums of a parallel scan need not rise evenly.
    """
    index = tl.arange(0, weights.shape[0])
    has_weight = weights > 0
    first = tl.min(tl.where(has_weight & (prefix > point), index, weights.shape[0]), 0)
    return tl.minimum(first, tl.max(tl.where(has_weight, index, 0), 0))


@triton.jit
def draw_tile(shares, fraction):
    """A tile by inverse CDF over float64 shares of the row, and how far into its own share the fraction is."""
    prefix = tl.cumsum(shares, 0)
    point = fraction * tl.sum(shares, 0)
    tile = first_above(shares, prefix, point)
    is_tile = tl.arange(0, shares.shape[0]) == tile
    share = tl.sum(tl.where(is_tile, shares, 0.0), 0)
    below = tl.sum(tl.where(is_tile, prefix, 0.0), 0) - share
    return tile, tl.minimum(tl.maximum((point - below) / tl.where(share > 0, share, 1.0), 0.0), 1.0)


@triton.jit
def load_tile(
    row, bias, tile, banned, size, step, VECTOR: tl.constexpr, BIAS_VECTOR: tl.constexpr, BANS: tl.constexpr
):
    """One tile [TILE] again, without the banned token, minus its maximum; and that maximum."""
    columns = tile * TILE + tl.arange(0, TILE)
    x = load_columns(row, bias, columns, size, step, VECTOR, BIAS_VECTOR)
    if BANS:
        x = tl.where(columns == banned, -INFINITY, x)
    maximum = tl.max(x, 0)
    return x - finite_or_zero(maximum), maximum


@triton.jit
def draw_token(
    row,
    bias,
    maxima,
    drawable,
    fraction,
    banned,
    size,
    step,
    inverse_temperature,
    VECTOR: tl.constexpr,
    BIAS_VECTOR: tl.constexpr,
    BANS: tl.constexpr,
):
    """A token of the row by inverse CDF, first over its tiles, then inside one; -1 if nothing is left to draw.

    A negative ``banned`` bans nothing. The tile of the banned token is visited again without it: taken off its sum,
    it would leave rounding alone where it dominates.
    """
    if BANS:
        tile = tl.maximum(banned, 0).to(tl.int32) // TILE
        x, maximum = load_tile(row, bias, tile, banned, size, step, VECTOR, BIAS_VECTOR, BANS)
        is_tile = tl.arange(0, maxima.shape[0]) == tile
        maxima = tl.where(is_tile, maximum, maxima)
        drawable = tl.where(is_tile, tl.sum(exponential(x * inverse_temperature), 0), drawable)
    maximum = tl.max(maxima, 0)
    if maxima.shape[0] == 1:
        tile = 0
    else:
        shares = drawable * exponential((maxima - finite_or_zero(maximum)) * inverse_temperature)
        # What is left of the fraction makes the two visits to the tile agree, whatever their rounding.
        tile, fraction = draw_tile(shares.to(tl.float64), fraction)
    x, _ = load_tile(row, bias, tile, banned, size, step, VECTOR, BIAS_VECTOR, BANS)
    weights = exponential(x * inverse_temperature).to(tl.float64)
    offset = first_above(weights, tl.cumsum(weights, 0), fraction * tl.sum(weights, 0))
    return tl.where(maximum > -INFINITY, tile * TILE + offset, -1)


@triton.jit
def softmax_columns(
    row,
    bias,
    columns,
    high,
    low,
    factor,
    is_ignored,
    size,
    step,
    VECTOR: tl.constexpr,
    BIAS_VECTOR: tl.constexpr,
    PADS: tl.constexpr,
):
    """softmax(x) factor of these columns, where high + low is the log-sum-exp; 0 in an ignored row, -inf in padding."""
    x = load_columns(row, bias, columns, size, step, VECTOR, BIAS_VECTOR)
    values = tl.where(is_ignored, 0.0, tl.exp((x - high) - low) * factor)
    # The padding of a buffer that is the kernel's own is -inf; the last vector ends in it.
    return tl.where(columns < size, values, -INFINITY) if PADS else values
