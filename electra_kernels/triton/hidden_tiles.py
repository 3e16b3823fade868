"""Tiles of hidden states for the discriminator's head (rtd_head.py): their division among programs, their arithmetic.

A tile is ROWS rows of hidden [N, H]. Its columns come in PIECES pieces of WIDTH columns, a power of two, and a tile in
registers is a tuple with one block [ROWS, WIDTH] per piece. In device functions, ``size`` is H, and ``step`` is the
distance of two columns in elements.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton.tokens import PROGRAMS

# Elements of hidden that a program keeps in registers at a time: 32 per thread of `WARPS` warps, in loads of 16 bytes.
_TILE = 4096
# Most rows in a tile of narrow rows.
_MOST_ROWS = 128
# Fewest tiles of a program. With fewer, the partial gradients are much traffic beside few rows.
_LEAST_TILES = 4
# Most tiles whose gradients are added up, in float32, before a partial gradient is written. Each further tile loses
# digits.
GROUP = 64
# Columns of the gradient that a program of the kernel that joins the partial gradients takes.
JOINED_COLUMNS = 32
WARPS = 4


class Partition(NamedTuple):
    """Division of the rows among programs.

    It depends only on number, width and type of the rows, so the summation order never changes. One warp reads a piece
    with 16 bytes per thread. So a warp has whole rows, sums a logit without a barrier, and no two warps repeat the
    arithmetic of a token.

    Attributes:
        programs: how many.
        tiles: tiles of a program.
        rows: rows of a tile.
        pieces: pieces of a row.
        width: columns of a piece.
        warps: warps of a program.
        partials: partial gradients of all programs together, a few of each program.
        pitch: elements from one partial gradient to the next: H for the weight, 1 for the bias, and padding that aligns
            the next one.
        is_wide: whether the number of a row needs 64 bits.
    """

    programs: int
    tiles: int
    rows: int
    pieces: int
    width: int
    warps: int
    partials: int
    pitch: int
    is_wide: bool


def partition_rows(hidden: Tensor) -> Partition:
    """The division of hidden [..., H] among programs."""
    size, count = hidden.shape[-1], hidden.shape[:-1].numel()
    vector = 16 // hidden.element_size()
    width = max(32 * vector, triton.next_power_of_2(triton.cdiv(size, 32 // vector)))
    width = min(width, triton.next_power_of_2(max(1, size)))
    pieces = max(1, triton.cdiv(size, width))
    rows = 1 << min(_MOST_ROWS, max(1, _TILE // (pieces * width))).bit_length() - 1
    blocks = max(1, triton.cdiv(count, rows))
    tiles = triton.cdiv(blocks, min(PROGRAMS, triton.cdiv(blocks, _LEAST_TILES)))
    programs = triton.cdiv(blocks, tiles)
    return Partition(
        programs=programs,
        tiles=tiles,
        rows=rows,
        pieces=pieces,
        width=width,
        warps=min(32, max(WARPS, triton.next_power_of_2(pieces * width // 1024))),
        partials=programs * triton.cdiv(tiles, GROUP),
        pitch=triton.cdiv(size + 1, JOINED_COLUMNS) * JOINED_COLUMNS,
        is_wide=(blocks + tiles) * rows >= 2**31,
    )


@triton.jit
def first_row(tiles, IS_WIDE, ROWS):
    """Number of the first row of this program; 64 bits if IS_WIDE."""
    program = tl.program_id(0)
    if IS_WIDE:
        program = program.to(tl.int64)
    return program * tiles * ROWS


@triton.jit
def load_weight(weight, step, size, PIECES, WIDTH):
    """The weight [size] as pieces [1, WIDTH] float32."""
    pieces = ()
    for piece in tl.static_range(PIECES):
        column = piece * WIDTH + tl.arange(0, WIDTH)
        loaded = tl.load(weight + column.to(tl.int64) * step, mask=column < size, other=0)
        pieces += (loaded.to(tl.float32)[None, :],)
    return pieces


@triton.jit
def load_rows(hidden, offsets, step, inside, size, PIECES, WIDTH):
    """Rows at ``offsets`` [ROWS] as pieces [ROWS, WIDTH] float32; 0 where ``inside`` [ROWS] is not set."""
    pieces = ()
    for piece in tl.static_range(PIECES):
        column = piece * WIDTH + tl.arange(0, WIDTH)
        pointers = hidden + offsets[:, None] + column.to(tl.int64)[None, :] * step
        loaded = tl.load(pointers, mask=inside[:, None] & (column < size)[None, :], other=0)
        pieces += (loaded.to(tl.float32),)
    return pieces


@triton.jit
def zero_gradient(PIECES, ROWS, WIDTH):
    """Pieces [ROWS, WIDTH] of a gradient of the weight that is not yet summed over rows, at 0."""
    pieces = ()
    for _ in tl.static_range(PIECES):
        pieces += (tl.zeros([ROWS, WIDTH], tl.float32),)
    return pieces


@triton.jit
def dot(rows, weight):
    """rows @ weight: [ROWS] float32."""
    products = rows[0] * weight[0]
    for piece in tl.static_range(1, len(rows)):
        products = tl.fma(rows[piece], weight[piece].broadcast_to(products.shape), products)
    return tl.sum(products, 1)


@triton.jit
def add_rows(gradient, rows, slopes):
    """gradient + rows * slopes [ROWS]. A row whose slope is 0 is left out: it may hold non-finite numbers."""
    is_added = slopes[:, None] != 0
    pieces = ()
    for piece in tl.static_range(len(rows)):
        added = tl.where(is_added, rows[piece], 0.0)
        pieces += (tl.fma(added, slopes[:, None].broadcast_to(added.shape), gradient[piece]),)
    return pieces


@triton.jit
def store_rows(grad_hidden, row, inside, slopes, weight, size, WIDTH):
    """Write slopes [ROWS] times weight to the rows ``row`` [ROWS] of grad_hidden [N, size], where ``inside`` is set."""
    for piece in tl.static_range(len(weight)):
        column = piece * WIDTH + tl.arange(0, WIDTH)
        pointers = grad_hidden + row.to(tl.int64)[:, None] * size + column[None, :]
        result = (slopes[:, None] * weight[piece]).to(grad_hidden.dtype.element_ty)
        tl.store(pointers, result, mask=inside[:, None] & (column < size)[None, :])
