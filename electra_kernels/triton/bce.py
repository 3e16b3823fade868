"""Masked binary cross-entropy on logits: loss, denominator and confusion counts in one pass, the gradient in one.

Eager torch makes a tensor of the size of the logits for each step from labels to loss. Here a token's logit, label,
mask and positive weight are read once, in the types and strides that they have, and what depends on all tokens leaves
a program as six numbers. Forward: two kernels. Backward: one, which reads the same again and writes the gradient.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch
from electra_kernels.triton.tokens import (
    NEIGHBOURS,
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

_BLOCK = 1024  # tokens at a time: 8 to a thread, which are 16 bytes of bfloat16
_WARPS = 4
_REGISTERS = 255  # all of a thread: left to itself, ptxas spills to have more programs on a multiprocessor


class _Split(NamedTuple):
    """Which program has which tokens; it depends on their number alone, and so do the bits of the sums."""

    programs: int
    tiles: int  # blocks of each program
    is_wide: bool  # whether the number of a token takes 64 bits


def _split(count: int) -> _Split:
    blocks = max(1, triton.cdiv(count, _BLOCK))
    tiles = triton.cdiv(blocks, PROGRAMS)
    return _Split(triton.cdiv(blocks, tiles), tiles, (blocks + tiles) * _BLOCK >= 2**31)


@triton.jit
def _tokens_of(start, count, BLOCK, IS_WHOLE):
    """The numbers of a block's tokens, and which of them there are.

    Of a block that is known to be whole the compiler sees that they all are, and loads vectors whatever the count.
    """
    token = start + tl.arange(0, BLOCK)
    return token, tl.full([BLOCK], 1, tl.int1) if IS_WHOLE else token < count


@triton.jit
def _add_block(sums, logits, terms, losses, start, count, label_smoothing, sizes, strides, BLOCK, IS_WHOLE):
    """``strides``: of the logits, and those of the terms."""
    token, inside = _tokens_of(start, count, BLOCK, IS_WHOLE)
    x = tl.load(logits + offsets_of(token, sizes, strides[0]), mask=inside, other=0).to(tl.float32)
    label, weight, positive, negative = load_terms(terms, label_smoothing, token, inside, sizes, strides[1])
    loss = token_losses(x, decay_of(x), weight, positive, negative)
    if losses is not None:
        tl.store(losses + token, loss, mask=inside)
    return add_tokens(sums, loss, weight, label, x)


@triton.jit(do_not_specialize=["count", "tiles"])
def bce_forward(
    logits,  # all of the shape that sizes and the strides describe
    labels,
    mask,  # or None
    pos_weight,  # or None
    losses,  # [count] float32 for reduction "none", else None
    partials,  # [SUMS, programs] float64
    count,
    tiles,
    label_smoothing,
    sizes,
    logit_strides,
    label_strides,
    mask_strides,
    weight_strides,
    IS_WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    terms, strides = (
        (labels, mask, pos_weight),
        (logit_strides, (label_strides, mask_strides, weight_strides)),
    )
    first = tl.program_id(0)
    if IS_WIDE:
        first = first.to(tl.int64)
    first *= tiles
    last = tl.minimum(first + tiles, tl.cdiv(count, BLOCK))
    last_whole = tl.minimum(first + tiles, count // BLOCK)
    sums = no_sums(BLOCK // NEIGHBOURS)
    for block in range(first, last_whole):
        sums = _add_block(
            sums, logits, terms, losses, block * BLOCK, count, label_smoothing, sizes, strides, BLOCK, True
        )
    for block in range(last_whole, last):
        sums = _add_block(
            sums, logits, terms, losses, block * BLOCK, count, label_smoothing, sizes, strides, BLOCK, False
        )
    store_sums(sums, partials)


@triton.jit(do_not_specialize=["programs"])
def bce_join(
    partials,
    normalizer,
    loss,
    counts,
    denominator,
    programs,
    IS_MEAN: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    join_sums(partials, normalizer, loss, counts, denominator, programs, IS_MEAN, PROGRAMS)


@triton.jit
def _write_block(
    logits, terms, grad_loss, denominator, gradient, start, count, label_smoothing, sizes, strides, BLOCK, IS_WHOLE
):  # fmt: skip
    """``strides``: of the logits, those of the terms, and of the upstream gradient."""
    token, inside = _tokens_of(start, count, BLOCK, IS_WHOLE)
    x = tl.load(logits + offsets_of(token, sizes, strides[0]), mask=inside, other=0).to(tl.float32)
    _, weight, positive, negative = load_terms(terms, label_smoothing, token, inside, sizes, strides[1])
    upstream = tl.load(grad_loss + offsets_of(token, sizes, strides[2]), mask=inside, other=0)
    scale = upstream_scale(upstream, reciprocal_or_zero(tl.load(denominator)))
    slopes = token_slopes(x, decay_of(x), weight, positive, negative) * scale
    # An upstream gradient that is not finite must not reach a token that is not counted.
    result = tl.where(weight != 0, slopes, 0.0)
    tl.store(gradient + token, result.to(gradient.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count"])
def bce_backward(
    logits,  # all of the shape that sizes and the strides describe
    labels,
    mask,  # or None
    pos_weight,  # or None
    grad_loss,  # for a loss that was summed its strides are 0
    denominator,  # [] float64
    gradient,  # [count]
    count,
    label_smoothing,
    sizes,
    logit_strides,
    label_strides,
    mask_strides,
    weight_strides,
    loss_strides,
    IS_WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    terms = (labels, mask, pos_weight)
    strides = (logit_strides, (label_strides, mask_strides, weight_strides), loss_strides)
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
    """All tensors have the shape of logits. Returns loss, confusion counts [4], denominator []."""
    count, split = logits.numel(), _split(logits.numel())
    sizes, strides = collapse(logits.shape, logits, labels, mask, pos_weight)
    loss = logits.new_empty(logits.shape if reduction == "none" else (), dtype=torch.float32)
    losses, total = (loss, None) if reduction == "none" else (None, loss)
    counts = logits.new_empty(4, dtype=torch.int64)
    denominator = logits.new_empty((), dtype=torch.float64)
    partials = logits.new_empty((SUMS, split.programs), dtype=torch.float64)
    launch.run(
        bce_forward,
        split.programs,
        *(logits, labels, mask, pos_weight, losses, partials),
        *(count, split.tiles, label_smoothing, sizes, *strides),
        num_warps=_WARPS,
        IS_WIDE=split.is_wide,
        BLOCK=_BLOCK,
        **launch.most_registers(_REGISTERS),
    )
    launch.run(
        bce_join,
        1,
        *(partials, normalizer, total, counts, denominator, split.programs),
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
    """Gradient of logits; grad_loss is [] or, for reduction "none", has the shape of logits."""
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
        IS_WIDE=_split(count).is_wide,
        BLOCK=_BLOCK,
    )
    return gradient
