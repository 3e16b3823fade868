"""Masked binary cross-entropy on logits, see electra_kernels/ops/bce.py: one pass forward and one pass backward.

Eager torch writes a tensor of the size of the logits for each step from labels to loss. Here a token's logit, label,
mask and positive weight are read once, in the types and strides that they have, and the sums over all tokens leave a
program as six numbers. The forward is two kernels. The backward is one, which reads the same tensors again and writes
the gradient.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch
from electra_kernels.triton.reduce import reciprocal_or_zero
from electra_kernels.triton.tokens import (
    NEIGHBOURS,
    PROGRAMS,
    SUMS,
    add_tokens,
    collapse,
    exp_neg_abs,
    join_sums,
    load_terms,
    offsets_of,
    store_sums,
    token_losses,
    token_slopes,
    upstream_scale,
    zero_sums,
)

# Tokens that a program takes at a time: 8 per thread, which are 16 bytes of bfloat16.
_BLOCK = 1024
_WARPS = 4
# Register cap per thread, the largest there is. Without it ptxas spills in order to raise occupancy.
_REGISTERS = 255


class _Partition(NamedTuple):
    """Division of the tokens among programs. Depends only on their number, so the summation order never changes.

    Attributes:
        programs: how many.
        tiles: blocks of `_BLOCK` tokens that each program takes.
        is_wide: whether the number of a token needs 64 bits.
    """

    programs: int
    tiles: int
    is_wide: bool


def _partition(count: int) -> _Partition:
    blocks = max(1, triton.cdiv(count, _BLOCK))
    tiles = triton.cdiv(blocks, PROGRAMS)
    return _Partition(triton.cdiv(blocks, tiles), tiles, (blocks + tiles) * _BLOCK >= 2**31)


@triton.jit
def _block_tokens(start, count, BLOCK, IS_WHOLE):
    """Numbers of a block's tokens, and which of them exist.

    The mask of a whole block is a constant, so the compiler loads vectors, whatever the count is.
    """
    token = start + tl.arange(0, BLOCK)
    return token, tl.full([BLOCK], 1, tl.int1) if IS_WHOLE else token < count


@triton.jit
def _add_block(sums, logits, terms, losses, start, count, label_smoothing, sizes, strides, BLOCK, IS_WHOLE):
    """Add one block to the sums and write its losses. ``strides`` are those of the logits and of the terms."""
    token, inside = _block_tokens(start, count, BLOCK, IS_WHOLE)
    x = tl.load(logits + offsets_of(token, sizes, strides[0]), mask=inside, other=0).to(tl.float32)
    label, weight, positive, negative = load_terms(terms, label_smoothing, token, inside, sizes, strides[1])
    loss = token_losses(x, exp_neg_abs(x), weight, positive, negative)
    if losses is not None:
        tl.store(losses + token, loss, mask=inside)
    return add_tokens(sums, loss, weight, label, x)


@triton.jit(do_not_specialize=["count", "tiles"])
def bce_forward(
    logits,  # float32, bfloat16 or float16; like the next three, ``count`` elements with the given sizes and strides
    labels,  # bool, int or float
    mask,  # bool, int or float, or None
    pos_weight,  # any float dtype, or None
    losses,  # [count] float32 for reduction "none", else None
    partial_sums,  # [SUMS, programs] float64
    count,  # Number of tokens.
    tiles,  # Blocks of a program.
    label_smoothing,
    sizes,  # Sizes of the dimensions that `collapse` leaves. The strides belong to the same dimensions.
    logit_strides,
    label_strides,
    mask_strides,
    pos_weight_strides,
    IS_WIDE: tl.constexpr,  # Whether the number of a token needs 64 bits.
    BLOCK: tl.constexpr,  # Tokens of a block.
):
    """Loss, mask weight and confusion cell of every token, summed over the tokens of a program.

    Fuses casts, mask, smoothing, loss and all sums: each input is read once, and only the sums (and the losses for
    reduction "none") are written. Fusing is legal because a token's terms depend on no other token, and the order of
    the sums is fixed. Whole blocks have a loop of their own, so that their loads need no mask.
    """
    terms, strides = (
        (labels, mask, pos_weight),
        (logit_strides, (label_strides, mask_strides, pos_weight_strides)),
    )
    first = tl.program_id(0)
    if IS_WIDE:
        first = first.to(tl.int64)
    first *= tiles
    last = tl.minimum(first + tiles, tl.cdiv(count, BLOCK))
    last_whole = tl.minimum(first + tiles, count // BLOCK)
    sums = zero_sums(BLOCK // NEIGHBOURS)
    for block in range(first, last_whole):
        sums = _add_block(
            sums, logits, terms, losses, block * BLOCK, count, label_smoothing, sizes, strides, BLOCK, True
        )
    for block in range(last_whole, last):
        sums = _add_block(
            sums, logits, terms, losses, block * BLOCK, count, label_smoothing, sizes, strides, BLOCK, False
        )
    store_sums(sums, partial_sums)


@triton.jit(do_not_specialize=["programs"])
def bce_join(
    partial_sums,  # [SUMS, programs] float64
    normalizer,  # [] float64, or None
    loss,  # [] float32, or None for reduction "none"
    counts,  # [4] int64
    denominator,  # [] float64
    programs,  # Programs of `bce_forward`.
    IS_MEAN: tl.constexpr,  # Whether the reduction is "mean".
    PROGRAMS: tl.constexpr,  # The most programs that there may be, a power of two.
):
    """Add up the partial sums of `bce_forward`, in one program and a fixed order."""
    join_sums(partial_sums, normalizer, loss, counts, denominator, programs, IS_MEAN, PROGRAMS)


@triton.jit
def _write_block(
    logits, terms, grad_loss, denominator, gradient, start, count, label_smoothing, sizes, strides, BLOCK, IS_WHOLE
):  # fmt: skip
    """Write the gradient of one block. ``strides``: the logits', the terms', the upstream gradient's."""
    token, inside = _block_tokens(start, count, BLOCK, IS_WHOLE)
    x = tl.load(logits + offsets_of(token, sizes, strides[0]), mask=inside, other=0).to(tl.float32)
    _, weight, positive, negative = load_terms(terms, label_smoothing, token, inside, sizes, strides[1])
    upstream = tl.load(grad_loss + offsets_of(token, sizes, strides[2]), mask=inside, other=0)
    scale = upstream_scale(upstream, reciprocal_or_zero(tl.load(denominator)))
    slopes = token_slopes(x, exp_neg_abs(x), weight, positive, negative) * scale
    # A non-finite upstream gradient must not reach a token that is not counted.
    result = tl.where(weight != 0, slopes, 0.0)
    tl.store(gradient + token, result.to(gradient.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count"])
def bce_backward(
    logits,  # float32, bfloat16 or float16; like the next four, ``count`` elements with the given sizes and strides
    labels,  # bool, int or float
    mask,  # bool, int or float, or None
    pos_weight,  # any float dtype, or None
    grad_loss,  # float32; all its strides are 0 if the loss was summed
    denominator,  # [] float64
    gradient,  # [count], dtype of the logits
    count,  # Number of tokens.
    label_smoothing,
    sizes,  # Sizes of the dimensions that `collapse` leaves. The strides belong to the same dimensions.
    logit_strides,
    label_strides,
    mask_strides,
    pos_weight_strides,
    loss_strides,
    IS_WIDE: tl.constexpr,  # Whether the number of a token needs 64 bits.
    BLOCK: tl.constexpr,  # Tokens of a program.
):
    """Gradient of the logits, from the inputs of the forward.

    Fuses casts, mask, smoothing, sigmoid and scaling: each input is read once and the gradient written once. Fusing is
    legal because a token's gradient depends on no other token once the denominator is known.
    """
    terms = (labels, mask, pos_weight)
    strides = (logit_strides, (label_strides, mask_strides, pos_weight_strides), loss_strides)
    start = tl.program_id(0)
    if IS_WIDE:
        start = start.to(tl.int64)
    start *= BLOCK
    if start + BLOCK <= count:
        _write_block(
            logits, terms, grad_loss, denominator, gradient, start, count, label_smoothing, sizes, strides,
            BLOCK, True,
        )  # fmt: skip
    else:
        _write_block(
            logits, terms, grad_loss, denominator, gradient, start, count, label_smoothing, sizes, strides,
            BLOCK, False,
        )  # fmt: skip


def masked_bce_with_logits(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    normalizer: Tensor | None,
    label_smoothing: float,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch `bce_forward` and `bce_join`.

    Args:
        logits: [...], float32, bfloat16 or float16, any strides.
        labels: [...] bool, int (-100: not counted) or float in [0, 1].
        mask: [...] bool, int or float (a weight), or None.
        pos_weight: [...], any float dtype, or None.
        normalizer: [] float64 that replaces the denominator, or None.
        label_smoothing: in [0, 1].
        reduction: "mean", "sum" or "none".

    Returns:
        Loss [] or [...] float32, confusion counts [4] int64 (true positives, false positives, false negatives, true
        negatives), denominator [] float64.
    """
    count, partition = logits.numel(), _partition(logits.numel())
    sizes, strides = collapse(logits.shape, logits, labels, mask, pos_weight)
    loss = logits.new_empty(logits.shape if reduction == "none" else (), dtype=torch.float32)
    losses, total = (loss, None) if reduction == "none" else (None, loss)
    counts = logits.new_empty(4, dtype=torch.int64)
    denominator = logits.new_empty((), dtype=torch.float64)
    partial_sums = logits.new_empty((SUMS, partition.programs), dtype=torch.float64)
    launch.run(
        bce_forward,
        partition.programs,
        *(logits, labels, mask, pos_weight, losses, partial_sums),
        *(count, partition.tiles, label_smoothing, sizes, *strides),
        num_warps=_WARPS,
        IS_WIDE=partition.is_wide,
        BLOCK=_BLOCK,
        **launch.register_cap(_REGISTERS),
    )
    launch.run(
        bce_join,
        1,
        *(partial_sums, normalizer, total, counts, denominator, partition.programs),
        num_warps=_WARPS,
        IS_MEAN=reduction == "mean",
        PROGRAMS=PROGRAMS,
    )
    return loss, counts, denominator


def masked_bce_with_logits_backward(
    grad_loss: Tensor,
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    denominator: Tensor,
    label_smoothing: float,
) -> Tensor:
    """Launch `bce_backward`.

    ``grad_loss`` is float32 [], or [...] for reduction "none". The other arguments are those of the forward and its
    denominator. Returns the gradient of the logits [...] in their dtype.
    """
    count = logits.numel()
    gradient = logits.new_empty(logits.shape)
    if count == 0:
        return gradient
    grad_loss = grad_loss.expand(logits.shape)
    sizes, strides = collapse(logits.shape, logits, labels, mask, pos_weight, grad_loss)
    blocks = triton.cdiv(count, _BLOCK)
    launch.run(
        bce_backward,
        blocks,
        *(logits, labels, mask, pos_weight, grad_loss, denominator, gradient),
        *(count, label_smoothing, sizes, *strides),
        num_warps=_WARPS,
        IS_WIDE=_partition(count).is_wide,
        BLOCK=_BLOCK,
        **launch.register_cap(_REGISTERS),
    )
    return gradient
