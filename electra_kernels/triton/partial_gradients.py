"""Partial gradients of the weight and bias of the discriminator's head (rtd_head.py).

Each program writes a few of them, `hidden_tiles.Partition.partials` in all. A second kernel adds them up in a fixed
order, so the gradients have the same bits on every run, without atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch
from electra_kernels.triton.hidden_tiles import JOINED_COLUMNS, WARPS, Partition
from electra_kernels.triton.tokens import PROGRAMS, join_sums


def empty_partials(partition: Partition, hidden: Tensor) -> Tensor:
    """Memory for the partial gradients [partials, pitch] float32, on the device of hidden."""
    return hidden.new_empty((partition.partials, partition.pitch), dtype=torch.float32)


@triton.jit
def store_partial(partial_gradients, group, gradient, slopes, size, pitch, WIDTH):
    """Sum over the rows of a tile and write the partial gradient of this program's group of tiles.

    It becomes row group x programs + program of ``partial_gradients`` [partial_count, pitch] float32: first the weight
    [size], then the bias.
    """
    partial = partial_gradients + (tl.program_id(0).to(tl.int64) + group * tl.num_programs(0)) * pitch
    for piece in tl.static_range(len(gradient)):
        column = piece * WIDTH + tl.arange(0, WIDTH)
        tl.store(partial + column, tl.sum(gradient[piece], 0), mask=column < size)
    tl.store(partial + size, tl.sum(slopes))


@triton.jit(do_not_specialize=["programs", "partial_count"])
def head_join(
    grad_weight,  # [size], float32, bfloat16 or float16
    grad_bias,  # [], float32, bfloat16 or float16
    partial_gradients,  # [partial_count, pitch] float32, or None: the gradients are then zero
    partial_sums,  # [SUMS, programs] float64, or None, and the next four with it: there are no sums to join
    normalizer,  # [] float64, or None
    loss,  # [] float32, or None for reduction "none"
    counts,  # [4] int64
    denominator,  # [] float64
    programs,  # Programs that wrote partial_sums.
    partial_count,
    size,  # Elements of the weight.
    pitch,  # Elements from one partial gradient to the next.
    IS_MEAN: tl.constexpr,  # Whether the reduction is "mean".
    PROGRAMS: tl.constexpr,  # The most programs that there may be, a power of two.
    COLUMNS: tl.constexpr,  # Columns of a program.
):
    """Add up the partial gradients in float64; the first program also adds up the sums of the losses.

    One launch does both. Each partial gradient is read once, a block [COLUMNS, COLUMNS] at a time.
    """
    if partial_sums is not None:  # noqa: SIM102 - the outer condition is decided at compile time
        if tl.program_id(0) == 0:
            join_sums(partial_sums, normalizer, loss, counts, denominator, programs, IS_MEAN, PROGRAMS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    gradient = tl.zeros([COLUMNS], tl.float64)
    if partial_gradients is not None:
        total = tl.zeros([COLUMNS, COLUMNS], tl.float64)
        for start in range(0, partial_count, COLUMNS):
            partial = start + tl.arange(0, COLUMNS)
            pointers = partial_gradients + partial.to(tl.int64)[:, None] * pitch + columns[None, :]
            inside = (partial < partial_count)[:, None] & (columns <= size)[None, :]
            total += tl.load(pointers, mask=inside, other=0).to(tl.float64)
        gradient = tl.sum(total, 0)
    gradient = gradient.to(tl.float32)
    tl.store(grad_weight + columns, gradient.to(grad_weight.dtype.element_ty), mask=columns < size)
    zeros = tl.zeros([COLUMNS], tl.int64)
    tl.store(grad_bias + zeros, gradient.to(grad_bias.dtype.element_ty), mask=columns == size)


def join_partials(
    partition: Partition,
    sums: tuple[Tensor | None, ...],
    partial_gradients: Tensor | None,
    grad_weight: Tensor,
    grad_bias: Tensor,
    is_mean: bool = False,
) -> None:
    """Launch `head_join`.

    Args:
        partition: partition of the kernel that wrote the partial results.
        sums: partial_sums, normalizer, loss, counts and denominator; all None to join gradients alone.
        partial_gradients: [partials, pitch] float32, or None for gradients of zero.
        grad_weight: [H], to be written.
        grad_bias: [], to be written.
        is_mean: whether the reduction is "mean".
    """
    launch.run(
        head_join,
        partition.pitch // JOINED_COLUMNS,
        *(grad_weight, grad_bias, partial_gradients, *sums),
        *(partition.programs, partition.partials, grad_weight.numel(), partition.pitch),
        num_warps=WARPS,
        IS_MEAN=is_mean,
        PROGRAMS=PROGRAMS,
        COLUMNS=JOINED_COLUMNS,
    )
