"""`linear_masked_bce`, the discriminator's last linear layer with its loss: see electra_kernels/ops/rtd_head.py.

Forward and backward together read the hidden states once (twice with reduction "none") and write their gradient once.
Eager torch reads them for the logits and again for the gradient of the weight, and between the two it writes a chain
of small tensors for the loss.

A program adds up the gradient of weight and bias in registers over many tiles of rows and writes it once, as a partial
gradient. A second kernel adds up the partial gradients in a fixed order (partial_gradients.py).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch
from electra_kernels.triton.hidden_tiles import (
    GROUP,
    WARPS,
    add_rows,
    dot,
    first_row,
    load_rows,
    load_weight,
    partition_rows,
    store_rows,
    zero_gradient,
)
from electra_kernels.triton.partial_gradients import empty_partials, join_partials, store_partial
from electra_kernels.triton.reduce import reciprocal_or_zero
from electra_kernels.triton.tokens import (
    SUMS,
    add_tokens,
    collapse,
    exp_neg_abs,
    load_terms,
    offsets_of,
    store_sums,
    token_losses,
    token_slopes,
    upstream_scale,
    zero_sums,
)

# Rows that the loop over losses takes at a time, one per thread.
_LANES = 32 * WARPS
# Registers per lane of all warps that a multiprocessor holds.
_REGISTERS = 65_536 // 32


@triton.jit(do_not_specialize=["count", "tiles"])
def head_forward(
    hidden,  # [count, size], float32, bfloat16 or float16; rows by hidden_strides, columns by hidden_step
    weight,  # [size], float32, bfloat16 or float16
    bias,  # [], float32, bfloat16 or float16, or None
    labels,  # [count] bool, int or float
    mask,  # [count] bool, int or float, or None
    pos_weight,  # [count], any float dtype, or None
    logits,  # [count] float32
    losses,  # [count] float32 for reduction "none", else None
    partial_sums,  # [SUMS, programs] float64
    partial_gradients,  # [partial_count, pitch] float32, or None if no gradient of the parameters is needed
    count,  # Number of rows.
    size,  # Columns of a row.
    pitch,  # Elements from one partial gradient to the next.
    tiles,  # Tiles of a program.
    label_smoothing,
    hidden_step,
    weight_step,
    sizes,  # Sizes of the dimensions that `collapse` leaves of the rows. The strides belong to the same dimensions.
    hidden_strides,
    label_strides,
    mask_strides,
    pos_weight_strides,
    IS_WIDE: tl.constexpr,  # Whether the number of a row needs 64 bits.
    ROWS: tl.constexpr,  # Rows of a tile.
    PIECES: tl.constexpr,  # Pieces of a row.
    WIDTH: tl.constexpr,  # Columns of a piece.
    LANES: tl.constexpr,  # Rows that the loop over losses takes at a time, one per thread.
    GROUP: tl.constexpr,  # Tiles whose gradients are added up before a partial gradient is written.
):
    """Logits, losses with their sums, and partial gradients of weight and bias, from one read of hidden.

    Fuses the product with the weight, the loss and the gradient of the parameters. A tile of rows in registers gives
    its logits, these give slopes (dloss/dlogit), and the rows times their slopes are added to the gradient before the
    tile is dropped. That is legal because "mean" and "sum" only scale this gradient, by a number that the backward
    knows: it stays unnormalised until then.
    """
    terms, term_strides = (labels, mask, pos_weight), (label_strides, mask_strides, pos_weight_strides)
    first = first_row(tiles, IS_WIDE, ROWS)
    w = load_weight(weight, weight_step, size, PIECES, WIDTH)
    offset = 0.0
    if bias is not None:
        offset = tl.load(bias).to(tl.float32)
    for group in range(tl.cdiv(tiles, GROUP)):
        gradient = zero_gradient(PIECES, ROWS, WIDTH)
        bias_gradient = tl.zeros([ROWS], tl.float32)
        for tile in range(group * GROUP, tl.minimum(group * GROUP + GROUP, tiles)):
            row = first + tile * ROWS + tl.arange(0, ROWS)
            inside = row < count
            offsets = offsets_of(row, sizes, hidden_strides)
            h = load_rows(hidden, offsets, hidden_step, inside, size, PIECES, WIDTH)
            x = dot(h, w) + offset
            tl.store(logits + row, x, mask=inside)
            if partial_gradients is not None:
                _, m, positive, negative = load_terms(
                    terms, label_smoothing, row, inside, sizes, term_strides
                )
                slopes = token_slopes(x, exp_neg_abs(x), m, positive, negative)
                bias_gradient += slopes
                gradient = add_rows(gradient, h, slopes)
        if partial_gradients is not None:
            store_partial(partial_gradients, group, gradient, bias_gradient, size, pitch, WIDTH)
    # In the loop above, all threads of a warp repeat the arithmetic of their row's token. Here a row has one thread.
    tl.debug_barrier()  # Other warps have written the logits that it reads.
    sums = zero_sums(LANES)
    for start in range(0, tiles * ROWS, LANES):
        lane = start + tl.arange(0, LANES)
        row = first + lane
        inside = (lane < tiles * ROWS) & (row < count)
        x = tl.load(logits + row, mask=inside, other=0)
        label, m, positive, negative = load_terms(terms, label_smoothing, row, inside, sizes, term_strides)
        loss = token_losses(x, exp_neg_abs(x), m, positive, negative)
        sums = add_tokens(sums, loss, m, label, x)
        if losses is not None:
            tl.store(losses + row, loss, mask=inside)
    store_sums(sums, partial_sums)


@triton.jit(do_not_specialize=["count", "tiles"])
def head_backward(
    hidden,  # [count, size], float32, bfloat16 or float16; read only if there are partial_gradients
    weight,  # [size], float32, bfloat16 or float16
    labels,  # [count] bool, int or float
    mask,  # [count] bool, int or float, or None
    pos_weight,  # [count], any float dtype, or None
    logits,  # [count] float32
    grad_loss,  # float32, [count] for reduction "none", else []
    denominator,  # [] float64
    weight_sums,  # [size] float32, the unnormalised gradient of the weight; not read if there are partial_gradients
    bias_sum,  # [] float32, that of the bias
    grad_hidden,  # [count, size] without gaps, dtype of hidden
    grad_weight,  # [size], dtype of weight; like grad_bias, not written if there are partial_gradients
    grad_bias,  # [], dtype of weight
    partial_gradients,  # [partial_count, pitch] float32 for reduction "none", else None
    count,  # Number of rows.
    size,  # Columns of a row.
    pitch,  # Elements from one partial gradient to the next.
    tiles,  # Tiles of a program.
    label_smoothing,
    hidden_step,
    weight_step,
    sums_step,
    sizes,  # Sizes of the dimensions that `collapse` leaves of the rows. The strides belong to the same dimensions.
    hidden_strides,
    label_strides,
    mask_strides,
    pos_weight_strides,
    logit_strides,
    loss_strides,
    IS_WIDE: tl.constexpr,  # Whether the number of a row needs 64 bits.
    ROWS: tl.constexpr,  # Rows of a tile.
    PIECES: tl.constexpr,  # Pieces of a row.
    WIDTH: tl.constexpr,  # Columns of a piece.
    GROUP: tl.constexpr,  # Tiles whose gradients are added up before a partial gradient is written.
):
    """Gradient of hidden, and the gradients of weight and bias.

    Fuses the slopes, their scale and the product with the weight, so no tensor of slopes is written. For "mean" and
    "sum", slopes come from the saved logits, hidden is not read, and the forward's sums are only scaled. For "none",
    slopes and with them the gradients of the parameters had to wait for the upstream gradient: hidden is read a second
    time, and partial gradients are written.
    """
    terms, term_strides = (labels, mask, pos_weight), (label_strides, mask_strides, pos_weight_strides)
    first = first_row(tiles, IS_WIDE, ROWS)
    w = load_weight(weight, weight_step, size, PIECES, WIDTH)
    reciprocal = reciprocal_or_zero(tl.load(denominator))
    if partial_gradients is None:
        scale = upstream_scale(tl.load(grad_loss), reciprocal)
    for group in range(tl.cdiv(tiles, GROUP)):
        gradient = zero_gradient(PIECES, ROWS, WIDTH)
        bias_gradient = tl.zeros([ROWS], tl.float32)
        for tile in range(group * GROUP, tl.minimum(group * GROUP + GROUP, tiles)):
            row = first + tile * ROWS + tl.arange(0, ROWS)
            inside = row < count
            x = tl.load(logits + offsets_of(row, sizes, logit_strides), mask=inside, other=0)
            _, m, positive, negative = load_terms(terms, label_smoothing, row, inside, sizes, term_strides)
            if partial_gradients is not None:
                upstream = tl.load(grad_loss + offsets_of(row, sizes, loss_strides), mask=inside, other=0)
                scale = upstream_scale(upstream, reciprocal)
            slopes = token_slopes(x, exp_neg_abs(x), m, positive, negative) * scale
            # A non-finite upstream gradient must not reach a token that is not counted.
            slopes = tl.where(m != 0, slopes, 0.0)
            store_rows(grad_hidden, row, inside, slopes, w, size, WIDTH)
            if partial_gradients is not None:
                offsets = offsets_of(row, sizes, hidden_strides)
                h = load_rows(hidden, offsets, hidden_step, inside, size, PIECES, WIDTH)
                bias_gradient += slopes
                gradient = add_rows(gradient, h, slopes)
        if partial_gradients is not None:
            store_partial(partial_gradients, group, gradient, bias_gradient, size, pitch, WIDTH)
    if partial_gradients is None and tl.program_id(0) == 0:
        for piece in tl.static_range(PIECES):
            column = piece * WIDTH + tl.arange(0, WIDTH)
            total = tl.load(weight_sums + column.to(tl.int64) * sums_step, mask=column < size, other=0)
            tl.store(
                grad_weight + column, (total * scale).to(grad_weight.dtype.element_ty), mask=column < size
            )
        tl.store(grad_bias, (tl.load(bias_sum) * scale).to(grad_bias.dtype.element_ty))


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
    """Launch `head_forward` and `head_join`.

    Args:
        hidden: [..., H], float32, bfloat16 or float16, any strides.
        weight: [H], float32, bfloat16 or float16.
        bias: [], float32, bfloat16 or float16, or None.
        labels: [...] bool, int (-100: not counted) or float in [0, 1].
        mask: [...] bool, int or float (a weight), or None.
        pos_weight: [...], any float dtype, or None.
        normalizer: [] float64 that replaces the denominator, or None.
        label_smoothing: in [0, 1].
        reduction: "mean", "sum" or "none".
        needs_parameter_gradients: whether the last two results are computed.

    Returns:
        Loss [] or [...] float32, logits [...] float32, confusion counts [4] int64, denominator [] float64, and the
        gradients of weight [H] and bias [] in float32 before they are divided by the denominator (zeros for
        reduction "none", or if they are not needed).
    """
    size, partition = hidden.shape[-1], partition_rows(hidden)
    sizes, strides = collapse(labels.shape, hidden, labels, mask, pos_weight)
    is_per_token = reduction == "none"
    logits = hidden.new_empty(labels.shape, dtype=torch.float32)
    loss = hidden.new_empty(labels.shape if is_per_token else (), dtype=torch.float32)
    counts = hidden.new_empty(4, dtype=torch.int64)
    denominator = hidden.new_empty((), dtype=torch.float64)
    grad_weight = hidden.new_empty(size, dtype=torch.float32)
    grad_bias = hidden.new_empty((), dtype=torch.float32)
    partial_sums = hidden.new_empty((SUMS, partition.programs), dtype=torch.float64)
    has_gradients = needs_parameter_gradients and not is_per_token
    partial_gradients = empty_partials(partition, hidden) if has_gradients else None
    losses, total = (loss, None) if is_per_token else (None, loss)
    launch.run(
        head_forward,
        partition.programs,
        *(hidden, weight, bias, labels, mask, pos_weight, logits, losses, partial_sums, partial_gradients),
        *(labels.numel(), size, partition.pitch, partition.tiles, label_smoothing),
        *(hidden.stride(-1), weight.stride(0), sizes, *strides),
        num_warps=partition.warps,
        IS_WIDE=partition.is_wide,
        ROWS=partition.rows,
        PIECES=partition.pieces,
        WIDTH=partition.width,
        LANES=_LANES,
        GROUP=GROUP,
    )
    sums = (partial_sums, normalizer, total, counts, denominator)
    join_partials(partition, sums, partial_gradients, grad_weight, grad_bias, reduction == "mean")
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
    """Launch `head_backward`, and for reduction "none" `head_join`.

    ``grad_loss`` is float32 [], or [...] for reduction "none". The other arguments are those of the forward and its
    results. Returns the gradients of hidden [..., H] in its dtype, and of weight [H] and bias [] in that of weight.
    """
    size, partition = hidden.shape[-1], partition_rows(hidden)
    is_per_token = reduction == "none"
    upstream = grad_loss if is_per_token else None
    sizes, strides = collapse(labels.shape, hidden, labels, mask, pos_weight, logits, upstream)
    partial_gradients = empty_partials(partition, hidden) if is_per_token else None
    gradients = hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), weight.new_empty(())
    launch.run(
        head_backward,
        partition.programs,
        *(hidden, weight, labels, mask, pos_weight, logits, grad_loss, denominator),
        *(grad_weight, grad_bias, *gradients, partial_gradients),
        *(labels.numel(), size, partition.pitch, partition.tiles, label_smoothing),
        *(hidden.stride(-1), weight.stride(0), grad_weight.stride(0), sizes, *strides),
        num_warps=partition.warps,
        IS_WIDE=partition.is_wide,
        ROWS=partition.rows,
        PIECES=partition.pieces,
        WIDTH=partition.width,
        GROUP=GROUP,
        # The largest register cap per thread. Without it ptxas spills in order to raise occupancy.
        **launch.register_cap(min(255, _REGISTERS // partition.warps)),
    )
    if partial_gradients is not None:
        join_partials(partition, (None,) * 5, partial_gradients, *gradients[1:])
    return gradients
