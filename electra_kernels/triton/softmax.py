"""The gradient of rows of logits whose log-sum-exp is known: their soft-max, less one at the target."""

import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch, rows
from electra_kernels.triton.tokens import reciprocal_or_zero

_BLOCK, _WARPS = 2048, 4


@triton.jit(
    do_not_specialize=["stride", "step", "out_stride", "out_step", "size", "blocks", "ignore_index"],
    do_not_specialize_on_alignment=["offsets", "logsumexp_parts", "targets", "upstream", "out_offsets"],
)
def softmax_rows(
    logits,  # rows of size elements
    offsets,  # [N] or None
    bias,  # [size] float32 or None
    logsumexp_parts,  # [N, 2] float32
    targets,  # [N], or None for the soft-max alone
    upstream,  # [N], one number, or None for 1
    denominator,  # one float64, or None
    out,  # rows of size elements; may be the logits
    out_offsets,  # [N] or None
    stride,
    step,
    out_stride,
    out_step,
    size,
    blocks,
    ignore_index,
    VECTOR: tl.constexpr,
    OUT_VECTOR: tl.constexpr,
    BIAS_VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    PER_ROW: tl.constexpr,  # upstream is
    PADS: tl.constexpr,  # the last vector ends in padding, which is -inf
):
    """(softmax(x) - one_hot(target)) upstream / denominator, zero in ignored rows; each logit is read once and its
    gradient written once. A program per block of a row: blocks x N of them."""
    row = tl.program_id(0) // blocks
    columns = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    source = logits + rows.row_start(offsets, stride, row, VECTOR)
    sink = out + rows.row_start(out_offsets, out_stride, row, OUT_VECTOR)
    factor = 1.0 if upstream is None else tl.load(upstream + (row if PER_ROW else 0))
    if denominator is not None:
        factor = (factor * reciprocal_or_zero(tl.load(denominator))).to(tl.float32)
    maximum, log_total = rows.load_logsumexp(logsumexp_parts, row)
    target = tl.load(targets + row) if targets is not None else -1
    is_ignored = target == ignore_index if targets is not None else False
    gradient = rows.softmax_columns(
        source, bias, columns, maximum, log_total, factor, is_ignored, size, step, VECTOR, BIAS_VECTOR, PADS
    )
    if targets is not None:
        target_logit = rows.load_logit(source, bias, target, size, step, VECTOR)
        at_target = tl.where(is_ignored, 0.0, rows.expm1((target_logit - maximum) - log_total) * factor)
        gradient = tl.where(columns == target, at_target, gradient)
        tl.debug_barrier()  # every warp has read the target's logit, which another may now overwrite
    inside = rows.is_inside(columns, size, OUT_VECTOR)
    tl.store(sink + rows.places(columns, out_step, OUT_VECTOR), gradient, inside)


def write_softmax(
    logits: launch.Rows,
    bias: Tensor | None,
    logsumexp_parts: Tensor,
    targets: Tensor | None,
    upstream: Tensor | None,
    denominator: Tensor | None,
    out: launch.Rows,
    ignore_index: int = -1,
) -> None:
    """Launch `softmax_rows`. logsumexp_parts [..., 2], upstream [] or [...] float32, targets [...] int64."""
    if logits.number == 0:
        return
    blocks = triton.cdiv(logits.size, _BLOCK)
    launch.run(
        softmax_rows,
        blocks * logits.number,
        logits.tensor,
        logits.offsets,
        bias,
        logsumexp_parts.contiguous(),
        None if targets is None else targets.contiguous(),
        None if upstream is None else upstream.contiguous(),
        denominator,
        out.tensor,
        out.offsets,
        logits.stride,
        logits.step,
        out.stride,
        out.step,
        logits.size,
        blocks,
        ignore_index,
        VECTOR=logits.vector,
        OUT_VECTOR=out.vector,
        BIAS_VECTOR=launch.bias_vector(bias),
        BLOCK=_BLOCK,
        PER_ROW=upstream is not None and upstream.dim() > 0,
        PADS=out.pads,
        num_warps=_WARPS,
    )
