"""Device functions that sampling and the masked-LM head share: scan a row of logits, and compute its soft-max.

The scan reads a row once, in blocks of WARPS tiles. A tile is `TILE` adjacent columns and belongs to one warp. A block
has the shape [S * WARPS, INNER] with S = TILE / INNER, and its element (s * WARPS + w, i) is column
w * TILE + s * INNER + i. One load of a warp takes INNER adjacent columns, and the maximum and the sum of a tile need no
other warp. The sum of a tile is taken over exp(x - the tile's own maximum), always in the same order, so every kernel
that scans a row gets the same bits, however many warps it has.

In all functions, ``row`` points to the first logit of a row, ``size`` is the number of columns, ``step`` the elements
from column to column, and VECTOR the elements of a load, as in `launch.Rows`.
"""

import triton
import triton.language as tl

TILE = tl.constexpr(1024)
LOG2_E = tl.constexpr(1.4426950408889634)
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def exponential(x):
    """exp(x), but 0 for a denormal result: for sums and draws in which another term is about 1.

    Gradients need `tl.exp`, since an upstream gradient may lift a denormal number above the smallest normal one.
    Denormal results cost `tl.exp` three instructions, as many as the rest of it.
    """
    return tl.exp2(x * LOG2_E)


@triton.jit
def finite_or_zero(x):
    """The number to subtract from a tile whose maximum is x. If all of a tile is -inf, subtracting -inf gives NaN."""
    return tl.where(tl.abs(x) < INFINITY, x, 0.0)


@triton.jit
def expm1(x):
    """exp(x) - 1 for x <= 0, without cancellation near 0."""
    near = x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040)))))))
    return tl.where(x > -0.35, near, tl.exp(x) - 1)


@triton.jit
def row_start(offsets, stride, row, VECTOR: tl.constexpr):
    """Elements from the pointer to the row, in 64 bits. The compiler is told that they are a multiple of VECTOR."""
    start = row.to(tl.int64) * stride if offsets is None else tl.load(offsets + row)
    return tl.multiple_of(start, VECTOR)


@triton.jit
def column_offsets(columns, step, VECTOR: tl.constexpr):
    """Elements from the start of a row to its columns. VECTOR = 0 says that columns are not adjacent."""
    return columns.to(tl.int64) * step if VECTOR == 0 else columns


@triton.jit
def is_inside(columns, size, VECTOR: tl.constexpr):
    """Whether the vector of a column begins inside the row.

    One answer per vector keeps a masked load wide. A vector ends with the row, or in padding that the kernel owns.
    """
    return columns < size if VECTOR <= 1 else columns // VECTOR * VECTOR < size


@triton.jit
def block_columns(first_tile, VECTOR: tl.constexpr, WARPS: tl.constexpr):
    """Columns [S * WARPS, INNER] of the block that begins at ``first_tile``.

    Triton deals the first of two dimensions to the warps in turn. With the three dimensions [S, WARPS, INNER], the
    dimension that it deals depends on its version.
    """
    INNER: tl.constexpr = 32 * (VECTOR if VECTOR > 1 else 1)
    index = tl.arange(0, TILE // INNER * WARPS)[:, None]
    return (first_tile + index % WARPS) * TILE + index // WARPS * INNER + tl.arange(0, INNER)[None, :]


@triton.jit
def load_columns(row, columns, size, step, VECTOR: tl.constexpr):
    """Logits of these columns as float32, -inf beyond the row."""
    inside = is_inside(columns, size, VECTOR)
    return tl.load(row + column_offsets(columns, step, VECTOR), inside, -INFINITY).to(tl.float32)


@triton.jit
def load_logit(row, column, size, step, VECTOR: tl.constexpr):
    """One logit as float32, NaN if there is no such column."""
    is_column = (column >= 0) & (column < size)
    return tl.load(row + column_offsets(column, step, VECTOR), is_column, float("nan")).to(tl.float32)


@triton.jit
def group_by_tile(x, WARPS: tl.constexpr):
    """[S * WARPS, INNER] → [S, WARPS, INNER]. No element moves between threads."""
    return tl.reshape(x, [x.shape[0] // WARPS, WARPS, x.shape[1]])


@triton.jit
def tile_maxima(x):
    """[S, WARPS, INNER] → [WARPS]. The maximum may skip a NaN; the sum of exponentials does not."""
    return tl.max(tl.max(x, 0), 1)


@triton.jit
def tile_sums(x):
    """[S, WARPS, INNER] → [WARPS]"""
    return tl.sum(tl.sum(x, 0), 1)


@triton.jit
def part_of_row(part, parts, tiles, WARPS: tl.constexpr):
    """First tile of a part, and the tile after its last one. The last parts may have no tile."""
    share = tl.cdiv(tl.cdiv(tiles, WARPS), parts) * WARPS
    return part * share, tl.minimum(part * share + share, tiles)


@triton.jit
def scan_tiles(
    row,
    size,
    step,
    inverse_temperature,
    statistics,  # [3, tiles] float32, of this row
    first_tile,
    last_tile,
    tiles,
    VECTOR: tl.constexpr,
    WARPS: tl.constexpr,
    TEMPERED: tl.constexpr,  # Whether the temperature is not 1. If it is 1, sum and drawable sum are equal.
):
    """Write three statistics of each tile in [first_tile, last_tile): maximum, sum and drawable sum.

    With the tile's maximum m, the sum is that of exp(x - m), for the log-sum-exp, and the drawable sum is that of
    exp((x - m) / temperature), for the draw.
    """
    for tile in range(first_tile, last_tile, WARPS):
        columns = block_columns(tile, VECTOR, WARPS)
        x = group_by_tile(load_columns(row, columns, size, step, VECTOR), WARPS)
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
    """Maxima, sums and drawable sums of a row's tiles, each [TILES]: ``tiles`` padded to a power of two."""
    index = tl.arange(0, TILES)
    inside = index < tiles
    maxima = tl.load(statistics + index, inside, -INFINITY)
    sums = tl.load(statistics + tiles + index, inside, 0.0)
    drawable = tl.load(statistics + 2 * tiles + index, inside, 0.0) if TEMPERED else sums
    return maxima, sums, drawable


@triton.jit
def row_total(maxima, sums):
    """Maximum of the row, log(sum of exp(x - maximum)), and whether the row is good.

    A good row has a finite logit and neither NaN nor +inf.
    """
    maximum = tl.max(maxima, 0)
    total = tl.sum((sums * exponential(maxima - finite_or_zero(maximum))).to(tl.float64), 0).to(tl.float32)
    return maximum, tl.log(total), (total < INFINITY) & (maximum > -INFINITY)


@triton.jit
def store_logsumexp(parts, row, maximum, log_total):
    """Store the log-sum-exp as two numbers in ``parts`` [N, 2] float32.

    In their sum, a large offset that all logits of the row share would cost the digits of log_total.
    """
    tl.store(parts + 2 * row, maximum)
    tl.store(parts + 2 * row + 1, log_total)


@triton.jit
def load_logsumexp(parts, row):
    """Maximum and log_total of a row, from ``parts`` [N, 2] float32.

    Subtract them one after the other: x - maximum is exact near the maximum.
    """
    return tl.load(parts + 2 * row), tl.load(parts + 2 * row + 1)


@triton.jit
def z_loss_factor(factor, z_loss, logsumexp):
    """Factor of softmax in the gradient of the z-loss. Without one, an infinite log-sum-exp has no effect."""
    return tl.where(z_loss == 0, 0.0, factor * (2.0 * z_loss * logsumexp))


@triton.jit
def target_gradient(distance, factor, logsumexp_factor):
    """(softmax - 1) factor + softmax logsumexp_factor at the target; ``distance`` is its logit minus the log-sum-exp.

    There softmax - 1 would lose all digits of a loss near 0; expm1 does not.
    """
    rest = tl.where(logsumexp_factor == 0, 0.0, tl.exp(distance) * logsumexp_factor)
    return expm1(distance) * factor + rest


@triton.jit
def softmax_columns(
    row,
    columns,
    maximum,
    log_total,
    factor,
    is_ignored,
    size,
    step,
    VECTOR: tl.constexpr,
    PADS: tl.constexpr,  # Whether the last vector of a row reaches into its padding.
):
    """softmax(x) * factor of these columns, 0 in an ignored row. maximum + log_total is the log-sum-exp."""
    x = load_columns(row, columns, size, step, VECTOR)
    values = tl.where(is_ignored, 0.0, tl.exp((x - maximum) - log_total) * factor)
    # Padding must stay -inf: the vectors of the next scan read it.
    return tl.where(columns < size, values, -INFINITY) if PADS else values
