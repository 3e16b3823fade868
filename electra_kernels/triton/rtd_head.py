"""The discriminator's last linear layer with its loss: hidden is read once in all, its gradient written once.

Eager torch reads hidden for the logits, reads it again for the gradient of the weight, and between them makes the chain
of small tensors of the loss. Here a tile of rows in registers gives its logits, these give loss and slope, and the rows
times their slopes are added to the gradient of the weight before the tile is dropped. That is legal because mean and
sum only scale this gradient, by a number that the backward knows: it stays unnormalised until then. A program keeps its
share of the gradient in registers over all its tiles and writes it once; a second kernel adds the shares in their
order. The backward writes slope x weight from the saved logits and does not read hidden at all, unless reduction is
"none": then the slopes, and with them the gradients of weight and bias, had to wait for the upstream gradient.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch
from electra_kernels.triton.tokens import (
    PROGRAMS,
    SUMS,
    add_tokens,
    collapse,
    decay_of,
    join_sums,
    load_terms,
    no_sums,
    offsets_of,
    reciprocal_or_zero,
    store_sums,
    token_losses,
    token_slopes,
    upstream_scale,
)

_TILE = (
    4096  # elements of hidden in registers at a time: 32 to a thread of _WARPS warps, in loads of 16 bytes
)
_ROWS = 128  # at most, in a tile of narrow rows
_TILES = 4  # at least, for each program, or the shares of the gradient are much traffic beside few rows
_CHAIN = 64  # tiles at most, whose gradient is one share: in float32, each further one loses digits
_COLUMNS = 32  # of the gradient, for each program of the kernel that joins the shares
_WARPS = 4
_LANES = 32 * _WARPS
_REGISTERS = 65_536 // 32  # of a lane of all warps that a multiprocessor holds


class _Split(NamedTuple):
    """Which program has which rows: from number, width and type of the rows alone, and so are the bits of the sums.

    A row is a few pieces of ``width`` columns, of which one warp reads 16 bytes a thread: then a warp has whole
    rows, sums a logit without a barrier, and no two warps repeat the arithmetic of a token.
    """

    programs: int
    tiles: int  # of each program
    rows: int  # of a tile
    pieces: int  # of a row
    width: int  # of a piece
    warps: int
    shares: int  # of the gradient of all programs, a few of each
    pitch: int  # of the shares: H columns, one for the bias, and some to align the next row
    is_wide: bool  # whether the number of a row takes 64 bits


def _split(hidden: Tensor) -> _Split:
    size, count = hidden.shape[-1], hidden.shape[:-1].numel()
    vector = 16 // hidden.element_size()
    width = max(32 * vector, triton.next_power_of_2(triton.cdiv(size, 32 // vector)))
    width = min(width, triton.next_power_of_2(max(1, size)))
    pieces = max(1, triton.cdiv(size, width))
    rows = 1 << min(_ROWS, max(1, _TILE // (pieces * width))).bit_length() - 1
    blocks = max(1, triton.cdiv(count, rows))
    tiles = triton.cdiv(blocks, min(PROGRAMS, triton.cdiv(blocks, _TILES)))
    programs = triton.cdiv(blocks, tiles)
    return _Split(
        programs=programs,
        tiles=tiles,
        rows=rows,
        pieces=pieces,
        width=width,
        warps=min(32, max(_WARPS, triton.next_power_of_2(pieces * width // 1024))),
        shares=programs * triton.cdiv(tiles, _CHAIN),
        pitch=triton.cdiv(size + 1, _COLUMNS) * _COLUMNS,
        is_wide=(blocks + tiles) * rows >= 2**31,
    )


@triton.jit
def _first_row(tiles, IS_WIDE, ROWS):
    program = tl.program_id(0)
    if IS_WIDE:
        program = program.to(tl.int64)
    return program * tiles * ROWS


@triton.jit
def _load_weight(weight, step, size, PIECES, WIDTH):
    pieces = ()
    for piece in tl.static_range(PIECES):
        column = piece * WIDTH + tl.arange(0, WIDTH)
        loaded = tl.load(weight + column.to(tl.int64) * step, mask=column < size, other=0)
        pieces += (loaded.to(tl.float32)[None, :],)
    return pieces


@triton.jit
def _load_rows(hidden, offsets, step, inside, size, PIECES, WIDTH):
    pieces = ()
    for piece in tl.static_range(PIECES):
        column = piece * WIDTH + tl.arange(0, WIDTH)
        places = hidden + offsets[:, None] + column.to(tl.int64)[None, :] * step
        loaded = tl.load(places, mask=inside[:, None] & (column < size)[None, :], other=0)
        pieces += (loaded.to(tl.float32),)
    return pieces


@triton.jit
def _no_gradient(PIECES, ROWS, WIDTH):
    pieces = ()
    for _ in tl.static_range(PIECES):
        pieces += (tl.zeros([ROWS, WIDTH], tl.float32),)
    return pieces


@triton.jit
def _dot(rows, weight):
    products = rows[0] * weight[0]
    for piece in tl.static_range(1, len(rows)):
        products = tl.fma(rows[piece], weight[piece].broadcast_to(products.shape), products)
    return tl.sum(products, 1)


@triton.jit
def _add_rows(gradient, rows, slopes):
    """A row without a slope is left out: it may hold numbers that are not finite."""
    is_added = slopes[:, None] != 0
    pieces = ()
    for piece in tl.static_range(len(rows)):
        added = tl.where(is_added, rows[piece], 0.0)
        pieces += (tl.fma(added, slopes[:, None].broadcast_to(added.shape), gradient[piece]),)
    return pieces


@triton.jit
def _store_rows(grad_hidden, row, inside, slopes, weight, size, WIDTH):
    for piece in tl.static_range(len(weight)):
        column = piece * WIDTH + tl.arange(0, WIDTH)
        places = grad_hidden + row.to(tl.int64)[:, None] * size + column[None, :]
        result = (slopes[:, None] * weight[piece]).to(grad_hidden.dtype.element_ty)
        tl.store(places, result, mask=inside[:, None] & (column < size)[None, :])


@triton.jit
def _store_share(shares, number, gradient, slopes, size, pitch, WIDTH):
    """A program's share of this number in shares [shares, pitch]: the gradient of the weight, then that of the bias."""
    share = shares + (tl.program_id(0).to(tl.int64) + number * tl.num_programs(0)) * pitch
    for piece in tl.static_range(len(gradient)):
        column = piece * WIDTH + tl.arange(0, WIDTH)
        tl.store(share + column, tl.sum(gradient[piece], 0), mask=column < size)
    tl.store(share + size, tl.sum(slopes))


@triton.jit(do_not_specialize=["count", "tiles"])
def head_forward(
    hidden,  # [count, size], by the strides of its rows and the step between columns
    weight,  # [size]
    bias,  # [] or None
    labels,  # [count], as all that follows, by strides
    mask,  # or None
    pos_weight,  # or None
    logits,  # [count] float32
    losses,  # [count] float32 for reduction "none", else None
    partials,  # [SUMS, programs] float64
    shares,  # [shares, pitch] float32, or None if no gradient of the parameters is needed
    count,
    size,
    pitch,
    tiles,
    label_smoothing,
    hidden_step,
    weight_step,
    sizes,
    hidden_strides,
    label_strides,
    mask_strides,
    weight_strides,
    IS_WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    LANES: tl.constexpr,
    CHAIN: tl.constexpr,
):
    terms, term_strides = (labels, mask, pos_weight), (label_strides, mask_strides, weight_strides)
    first = _first_row(tiles, IS_WIDE, ROWS)
    w = _load_weight(weight, weight_step, size, PIECES, WIDTH)
    offset = 0.0
    if bias is not None:
        offset = tl.load(bias).to(tl.float32)
    for link in range(tl.cdiv(tiles, CHAIN)):
        gradient = _no_gradient(PIECES, ROWS, WIDTH)
        bias_gradient = tl.zeros([ROWS], tl.float32)
        for tile in range(link * CHAIN, tl.minimum(link * CHAIN + CHAIN, tiles)):
            row = first + tile * ROWS + tl.arange(0, ROWS)
            inside = row < count
            offsets = offsets_of(row, sizes, hidden_strides)
            h = _load_rows(hidden, offsets, hidden_step, inside, size, PIECES, WIDTH)
            x = _dot(h, w) + offset
            tl.store(logits + row, x, mask=inside)
            if shares is not None:
                _, m, positive, negative = load_terms(
                    terms, label_smoothing, row, inside, sizes, term_strides
                )
                slopes = token_slopes(x, decay_of(x), m, positive, negative)
                bias_gradient += slopes
                gradient = _add_rows(gradient, h, slopes)
        if shares is not None:
            _store_share(shares, link, gradient, bias_gradient, size, pitch, WIDTH)
    # The sums have a thread for each row, where above all threads of a warp repeat the arithmetic of theirs.
    tl.debug_barrier()
    sums = no_sums(LANES)
    for start in range(0, tiles * ROWS, LANES):
        lane = start + tl.arange(0, LANES)
        row = first + lane
        inside = (lane < tiles * ROWS) & (row < count)
        x = tl.load(logits + row, mask=inside, other=0)
        label, m, positive, negative = load_terms(terms, label_smoothing, row, inside, sizes, term_strides)
        loss = token_losses(x, decay_of(x), m, positive, negative)
        sums = add_tokens(sums, loss, m, label, x)
        if losses is not None:
            tl.store(losses + row, loss, mask=inside)
    store_sums(sums, partials)


@triton.jit(do_not_specialize=["programs", "share_count"])
def head_join(
    grad_weight,  # [size]
    grad_bias,  # []
    shares,  # [share_count, pitch], or None: the gradients are then zero
    partials,  # [SUMS, programs] float64, or None, and all below with it: there are no sums to join
    normalizer,  # [] float64, or None
    loss,  # [], or None if it is not one number
    counts,  # [4]
    denominator,  # []
    programs,
    share_count,
    size,
    pitch,
    IS_MEAN: tl.constexpr,
    PROGRAMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    if partials is not None:  # noqa: SIM102 - the outer one is decided when compiled
        if tl.program_id(0) == 0:
            join_sums(partials, normalizer, loss, counts, denominator, programs, IS_MEAN, PROGRAMS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    gradient = tl.zeros([COLUMNS], tl.float64)
    if shares is not None:
        total = tl.zeros([COLUMNS, COLUMNS], tl.float64)
        for start in range(0, share_count, COLUMNS):
            share = start + tl.arange(0, COLUMNS)
            places = shares + share.to(tl.int64)[:, None] * pitch + columns[None, :]
            inside = (share < share_count)[:, None] & (columns <= size)[None, :]
            total += tl.load(places, mask=inside, other=0).to(tl.float64)
        gradient = tl.sum(total, 0)
    gradient = gradient.to(tl.float32)
    tl.store(grad_weight + columns, gradient.to(grad_weight.dtype.element_ty), mask=columns < size)
    ends = tl.zeros([COLUMNS], tl.int64)
    tl.store(grad_bias + ends, gradient.to(grad_bias.dtype.element_ty), mask=columns == size)


@triton.jit(do_not_specialize=["count", "tiles"])
def head_backward(
    hidden,  # [count, size]; read only for the shares
    weight,  # [size]
    labels,  # [count], as all that follows, by strides
    mask,  # or None
    pos_weight,  # or None
    logits,
    grad_loss,  # [count] for reduction "none", else []
    denominator,  # [] float64
    weight_sums,  # [size] float32, the gradients before their scale; not read if there are shares
    bias_sum,  # []
    grad_hidden,  # [count, size] without gaps
    grad_weight,  # [size]
    grad_bias,  # []
    shares,  # [shares, pitch] float32 for reduction "none", else None
    count,
    size,
    pitch,
    tiles,
    label_smoothing,
    hidden_step,
    weight_step,
    sums_step,
    sizes,
    hidden_strides,
    label_strides,
    mask_strides,
    weight_strides,
    logit_strides,
    loss_strides,
    IS_WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    CHAIN: tl.constexpr,
):
    terms, term_strides = (labels, mask, pos_weight), (label_strides, mask_strides, weight_strides)
    first = _first_row(tiles, IS_WIDE, ROWS)
    w = _load_weight(weight, weight_step, size, PIECES, WIDTH)
    reciprocal = reciprocal_or_zero(tl.load(denominator))
    if shares is None:
        scale = upstream_scale(tl.load(grad_loss), reciprocal)
    for link in range(tl.cdiv(tiles, CHAIN)):
        gradient = _no_gradient(PIECES, ROWS, WIDTH)
        bias_gradient = tl.zeros([ROWS], tl.float32)
        for tile in range(link * CHAIN, tl.minimum(link * CHAIN + CHAIN, tiles)):
            row = first + tile * ROWS + tl.arange(0, ROWS)
            inside = row < count
            x = tl.load(logits + offsets_of(row, sizes, logit_strides), mask=inside, other=0)
            _, m, positive, negative = load_terms(terms, label_smoothing, row, inside, sizes, term_strides)
            if shares is not None:
                upstream = tl.load(grad_loss + offsets_of(row, sizes, loss_strides), mask=inside, other=0)
                scale = upstream_scale(upstream, reciprocal)
            slopes = token_slopes(x, decay_of(x), m, positive, negative) * scale
            # An upstream gradient that is not finite must not reach a token that is not counted.
            slopes = tl.where(m != 0, slopes, 0.0)
            _store_rows(grad_hidden, row, inside, slopes, w, size, WIDTH)
            if shares is not None:
                offsets = offsets_of(row, sizes, hidden_strides)
                h = _load_rows(hidden, offsets, hidden_step, inside, size, PIECES, WIDTH)
                bias_gradient += slopes
                gradient = _add_rows(gradient, h, slopes)
        if shares is not None:
            _store_share(shares, link, gradient, bias_gradient, size, pitch, WIDTH)
    if shares is None and tl.program_id(0) == 0:
        for piece in tl.static_range(PIECES):
            column = piece * WIDTH + tl.arange(0, WIDTH)
            total = tl.load(weight_sums + column.to(tl.int64) * sums_step, mask=column < size, other=0)
            tl.store(
                grad_weight + column, (total * scale).to(grad_weight.dtype.element_ty), mask=column < size
            )
        tl.store(grad_bias, (tl.load(bias_sum) * scale).to(grad_bias.dtype.element_ty))


def _shares(split: _Split, hidden: Tensor) -> Tensor:
    return hidden.new_empty((split.shares, split.pitch), dtype=torch.float32)


def _join(
    split: _Split,
    sums: tuple[Tensor | None, ...],
    shares: Tensor | None,
    grad_weight: Tensor,
    grad_bias: Tensor,
    is_mean: bool = False,
) -> None:
    """``sums``: partials, normalizer, loss, counts and denominator."""
    launch.run(
        head_join,
        split.pitch // _COLUMNS,
        *(grad_weight, grad_bias, shares, *sums),
        *(split.programs, split.shares, grad_weight.numel(), split.pitch),
        num_warps=_WARPS,
        IS_MEAN=is_mean,
        PROGRAMS=PROGRAMS,
        COLUMNS=_COLUMNS,
    )


def linear_masked_bce(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    normalizer: Tensor | None,
    label_smoothing: float,
    reduction: str,
    needs_parameter_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden [..., H], weight [H], bias [] → loss, logits [...], counts [4], denominator [], and the gradients
    of weight [H] and bias [] before they are divided by the denominator (zeros unless they are needed)."""
    size, split = hidden.shape[-1], _split(hidden)
    sizes, strides = collapse(labels.shape, hidden, labels, mask, pos_weight)
    is_per_token = reduction == "none"
    logits = hidden.new_empty(labels.shape, dtype=torch.float32)
    loss = hidden.new_empty(labels.shape if is_per_token else (), dtype=torch.float32)
    counts = hidden.new_empty(4, dtype=torch.int64)
    denominator = hidden.new_empty((), dtype=torch.float64)
    grad_weight = hidden.new_empty(size, dtype=torch.float32)
    grad_bias = hidden.new_empty((), dtype=torch.float32)
    partials = hidden.new_empty((SUMS, split.programs), dtype=torch.float64)
    shares = _shares(split, hidden) if needs_parameter_gradients and not is_per_token else None
    losses, total = (loss, None) if is_per_token else (None, loss)
    launch.run(
        head_forward,
        split.programs,
        *(hidden, weight, bias, labels, mask, pos_weight, logits, losses, partials, shares),
        *(labels.numel(), size, split.pitch, split.tiles, label_smoothing),
        *(hidden.stride(-1), weight.stride(0), sizes, *strides),
        num_warps=split.warps,
        IS_WIDE=split.is_wide,
        ROWS=split.rows,
        PIECES=split.pieces,
        WIDTH=split.width,
        LANES=_LANES,
        CHAIN=_CHAIN,
    )
    sums = (partials, normalizer, total, counts, denominator)
    _join(split, sums, shares, grad_weight, grad_bias, reduction == "mean")
    return loss, logits, counts, denominator, grad_weight, grad_bias


def linear_masked_bce_backward(
    grad_loss: Tensor,
    hidden: Tensor,
    weight: Tensor,
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    denominator: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    label_smoothing: float,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias; the forward summed the last two unless reduction is "none"."""
    size, split = hidden.shape[-1], _split(hidden)
    is_per_token = reduction == "none"
    upstream = grad_loss if is_per_token else None
    sizes, strides = collapse(labels.shape, hidden, labels, mask, pos_weight, logits, upstream)
    shares = _shares(split, hidden) if is_per_token else None
    gradients = hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), weight.new_empty(())
    launch.run(
        head_backward,
        split.programs,
        *(hidden, weight, labels, mask, pos_weight, logits, grad_loss, denominator),
        *(grad_weight, grad_bias, *gradients, shares),
        *(labels.numel(), size, split.pitch, split.tiles, label_smoothing),
        *(hidden.stride(-1), weight.stride(0), grad_weight.stride(0), sizes, *strides),
        num_warps=split.warps,
        IS_WIDE=split.is_wide,
        ROWS=split.rows,
        PIECES=split.pieces,
        WIDTH=split.width,
        CHAIN=_CHAIN,
        # All that a thread may have: left to itself, ptxas spills to have more programs on a multiprocessor.
        **launch.most_registers(min(255, _REGISTERS // split.warps)),
    )
    if shares is not None:
        _join(split, (None,) * 5, shares, *gradients[1:])
    return gradients
