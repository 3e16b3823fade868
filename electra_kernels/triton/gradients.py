"""Gradients of rows of logits: written from a known log-sum-exp (soft-max, minus 1 at the target), or scaled."""

import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch, rows
from electra_kernels.triton.reduce import reciprocal_or_zero

_WARPS = 4
_BLOCK = 2048  # Columns of a program of `softmax_rows`.
_SCALED_BLOCK = 4096  # Columns of a turn of `scale_rows_`.
_SCALING_WARPS = 8


@triton.jit(
    do_not_specialize=["stride", "step", "out_stride", "out_step", "size", "blocks", "ignore_index"],
    do_not_specialize_on_alignment=[
        "offsets",
        "logsumexp_parts",
        "targets",
        "upstream",
        "logsumexp_upstream",
        "out_offsets",
    ],
)
def softmax_rows(
    logits,  # [N, size], float32, bfloat16 or float16
    offsets,  # [N] int64, elements to each row, or None
    logsumexp_parts,  # [N, 2] float32
    targets,  # [N] int64, or None for the soft-max alone
    upstream,  # [N] or [] float32, or None for 1
    logsumexp_upstream,  # [N] float32, upstream gradient of the log-sum-exp, or None for 0
    denominator,  # [] float64, or None for 1
    out,  # [N, size], float32, bfloat16 or float16; may be the logits
    out_offsets,  # [N] int64, or None
    stride,  # Elements from row to row of logits.
    step,  # Elements from column to column of logits.
    out_stride,
    out_step,
    size,  # Columns of a row.
    blocks,  # Blocks of a row, a program each.
    ignore_index,  # Target of the rows whose gradient is zero.
    z_loss,
    VECTOR: tl.constexpr,  # Elements of a load of logits, as in launch.Rows.
    OUT_VECTOR: tl.constexpr,  # Elements of a store to out.
    BLOCK: tl.constexpr,  # Columns of a program.
    PER_ROW: tl.constexpr,  # Whether upstream has one value per row.
    PADS: tl.constexpr,  # Whether the last vector of a row of out reaches into its padding, which must stay -inf.
):
    """(softmax (1 + 2 z l) - one_hot(target)) upstream / denominator + softmax logsumexp_upstream, and zero in ignored
    rows, for the log-sum-exp l of the logits.

    Fuses soft-max, subtraction and scaling. Each logit is read once and each gradient written once; eager torch
    writes and reads a tensor of that size for every step. Fusing is legal because the log-sum-exp is known, so no
    element depends on another one. A barrier comes before the stores: with out = logits, the logit at the target is
    read by every warp, and only one of them overwrites it.

    There are blocks x N programs.
    """
    row = tl.program_id(0) // blocks
    columns = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    source = logits + rows.row_start(offsets, stride, row, VECTOR)
    sink = out + rows.row_start(out_offsets, out_stride, row, OUT_VECTOR)
    factor = 1.0 if upstream is None else tl.load(upstream + (row if PER_ROW else 0))
    if denominator is not None:
        factor = (factor * reciprocal_or_zero(tl.load(denominator))).to(tl.float32)
    maximum, log_total = rows.load_logsumexp(logsumexp_parts, row)
    logsumexp_factor = rows.z_loss_factor(factor, z_loss, maximum + log_total)
    if logsumexp_upstream is not None:
        logsumexp_factor += tl.load(logsumexp_upstream + row)
    soft_max_factor = factor + logsumexp_factor
    target = tl.load(targets + row) if targets is not None else -1
    is_ignored = target == ignore_index if targets is not None else False
    gradient = rows.softmax_columns(
        source, columns, maximum, log_total, soft_max_factor, is_ignored, size, step, VECTOR, PADS
    )
    if targets is not None:
        target_logit = rows.load_logit(source, target, size, step, VECTOR)
        distance = (target_logit - maximum) - log_total
        at_target = rows.target_gradient(distance, factor, logsumexp_factor)
        gradient = tl.where(columns == target, tl.where(is_ignored, 0.0, at_target), gradient)
        tl.debug_barrier()  # Every warp has read the logit at the target. Now one of them may overwrite it.
    inside = rows.is_inside(columns, size, OUT_VECTOR)
    tl.store(sink + rows.column_offsets(columns, out_step, OUT_VECTOR), gradient, inside)


@triton.jit(
    do_not_specialize=["stride", "step", "size", "blocks", "count"],
    do_not_specialize_on_alignment=["offsets", "scale"],
)
def scale_rows_(
    gradient,  # [N, size], float32, bfloat16 or float16
    offsets,  # [N] int64, elements to each row, or None
    scale,  # [N] or [] float32
    stride,  # Elements from row to row.
    step,  # Elements from column to column.
    size,  # Columns of a row.
    blocks,  # Blocks of a row.
    count,  # Blocks of all rows.
    VECTOR: tl.constexpr,  # Elements of a load of gradient, as in launch.Rows.
    BLOCK: tl.constexpr,  # Columns of a block.
    PER_ROW: tl.constexpr,  # Whether scale has one value per row.
):
    """gradient *= scale, computed in float32; a scale of 1, read on the device, moves no other memory.

    The grid has as many programs as the GPU runs at once. They take turns at the blocks, so leaving early is cheap.
    """
    if not PER_ROW and tl.load(scale) == 1:
        return
    for block in range(tl.program_id(0), count, tl.num_programs(0)):
        row = block // blocks
        columns = block % blocks * BLOCK + tl.arange(0, BLOCK)
        start = rows.row_start(offsets, stride, row, VECTOR)
        pointers = gradient + start + rows.column_offsets(columns, step, VECTOR)
        inside = rows.is_inside(columns, size, VECTOR)
        factor = tl.load(scale + (row if PER_ROW else 0))
        tl.store(pointers, tl.load(pointers, inside).to(tl.float32) * factor, inside)


def write_softmax(
    logits: launch.Rows,
    logsumexp_parts: Tensor,
    targets: Tensor | None,
    upstream: Tensor | None,
    denominator: Tensor | None,
    out: launch.Rows,
    ignore_index: int = -1,
    *,
    z_loss: float = 0.0,
    logsumexp_upstream: Tensor | None = None,
) -> None:
    """Launch `softmax_rows`.

    Args:
        logits: N rows of V elements.
        logsumexp_parts: [..., 2] float32, maximum and logarithm of the sum of exp(x - maximum).
        targets: [...] int64, or None for the soft-max alone.
        upstream: [] or [...] float32, or None for 1.
        denominator: [] float64, or None for 1.
        out: N rows of V elements that become the gradient; may be ``logits``.
        ignore_index: target of the rows whose gradient is zero.
        z_loss: weight of the squared log-sum-exp.
        logsumexp_upstream: [...] float32, upstream gradient of the log-sum-exp, or None for 0.
    """
    if logits.count == 0:
        return
    blocks = triton.cdiv(logits.size, _BLOCK)
    launch.run(
        softmax_rows,
        blocks * logits.count,
        *(logits.tensor, logits.offsets, logsumexp_parts.contiguous()),
        None if targets is None else targets.contiguous(),
        None if upstream is None else upstream.contiguous(),
        None if logsumexp_upstream is None else logsumexp_upstream.contiguous(),
        *(denominator, out.tensor, out.offsets),
        *(logits.stride, logits.step, out.stride, out.step, logits.size, blocks, ignore_index, z_loss),
        VECTOR=logits.vector,
        OUT_VECTOR=out.vector,
        BLOCK=_BLOCK,
        PER_ROW=upstream is not None and upstream.dim() > 0,
        PADS=out.ends_in_padding,
        num_warps=_WARPS,
    )


def scale_rows(gradient: launch.Rows, scale: Tensor) -> None:
    """Launch `scale_rows_`: multiply N rows of V elements by scale, float32 [] or [...], in place."""
    if gradient.count == 0:
        return
    blocks = triton.cdiv(gradient.size, _SCALED_BLOCK)
    count = blocks * gradient.count
    launch.run(
        scale_rows_,
        min(count, 8 * launch.multiprocessors(gradient.tensor.device)),
        *(gradient.tensor, gradient.offsets, scale.contiguous()),
        *(gradient.stride, gradient.step, gradient.size, blocks, count),
        VECTOR=gradient.vector,
        BLOCK=_SCALED_BLOCK,
        PER_ROW=scale.dim() > 0,
        num_warps=_SCALING_WARPS,
    )
