"""`cross_entropy_sample`, in place too, its gradient, and the row kernel of the linear head: see
electra_kernels/ops/mlm_head.py.

`cross_entropy_rows` makes loss, sample and, where it may overwrite the logits, the gradient of a row in one program:
memory is read once and written once instead of the eight passes of eager soft-max, loss, sample and gradient. The row
is read again for its gradient, but from the cache, as long as that holds the rows under way: on an H100 three or four a
multiprocessor, at V = 30,522 in bfloat16 30 MB of its 50. (Kept in registers instead, a row of 30,522 spills, whether
16 or 32 warps hold it.) Overwriting is legal as the draw and the target's logit, the only reads of other columns, come
before the first write, with a barrier between. Rows too few to fill the GPU one program each are visited in parts, and
their gradient is softmax.py's.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.reference import mlm_head as reference
from electra_kernels.reference.chunks import RowKernels
from electra_kernels.triton import launch, rows
from electra_kernels.triton.softmax import write_softmax
from electra_kernels.triton.tokens import reciprocal_or_zero

# Of a row: enough that the rows under way fit into the cache, few enough that several hide each other's latency.
_WARPS = 8
# Of a thread, more than it needs: left to itself, ptxas spills to have more programs on a multiprocessor.
_REGISTERS = 128
_BLOCK = 1024


@triton.jit(
    do_not_specialize=["stride", "step", "size", "tiles", "parts", "ignore_index"],
    do_not_specialize_on_alignment=[
        "offsets",
        "targets",
        "uniforms",
        "statistics",
        "losses",
        "tokens",
        "is_top1",
        "logsumexp_parts",
    ],
)
def cross_entropy_rows(
    logits,  # N rows of size elements; their gradient, if it is written
    offsets,  # [N] or None
    bias,  # [size] float32 or None
    targets,  # [N]
    uniforms,  # [N] float64
    scale,  # one float32 that multiplies the gradient, or None
    statistics,  # [N, 3, tiles] float32
    losses,  # [N] float32
    tokens,  # [N] int64
    is_top1,  # [N] bool
    logsumexp_parts,  # [N, 2] float32
    stride,
    step,
    size,
    tiles,
    parts,
    ignore_index,
    inverse_temperature,
    VECTOR: tl.constexpr,
    BIAS_VECTOR: tl.constexpr,
    TILES: tl.constexpr,
    WARPS: tl.constexpr,
    TEMPERED: tl.constexpr,
    BANS: tl.constexpr,
    PADS: tl.constexpr,
    VISITS: tl.constexpr,
    DRAWS: tl.constexpr,
    WRITES: tl.constexpr,
):
    """A program per row that visits, draws and writes the gradient; or parts x N that visit, then N that draw."""
    row = tl.program_id(0) // parts
    start = logits + rows.row_start(offsets, stride, row, VECTOR)
    statistics += row.to(tl.int64) * 3 * tiles
    target = tl.load(targets + row)
    is_ignored = target == ignore_index
    if VISITS:
        first, last = rows.part_of_row(tl.program_id(0) % parts, parts, tiles, WARPS)
        last = tl.where(is_ignored, first, last)
        rows.visit_tiles(
            start, bias, size, step, inverse_temperature, statistics, first, last, tiles,
            VECTOR, BIAS_VECTOR, WARPS, TEMPERED,
        )  # fmt: skip
    if VISITS and DRAWS:
        tl.debug_barrier()  # what other warps have written is about to be read
    if DRAWS:
        maxima, sums, drawable = rows.load_statistics(statistics, tiles, TILES, TEMPERED)
        maximum, log_total, is_good = rows.row_total(maxima, sums)
        token = rows.draw_token(
            start, bias, maxima, drawable, tl.load(uniforms + row), target, size, step, inverse_temperature,
            VECTOR, BIAS_VECTOR, BANS,
        )  # fmt: skip
        target_logit = rows.load_logit(start, bias, target, size, step, VECTOR)
        # The maximum passes over a NaN, the sum does not.
        is_highest = (target_logit == maximum) & (log_total == log_total)
        log_total = tl.where(is_good, log_total, float("nan"))
        tl.store(losses + row, tl.where(is_ignored, 0.0, (maximum - target_logit) + log_total))
        tl.store(tokens + row, tl.where(is_good & (is_ignored == 0), token, -1))
        tl.store(is_top1 + row, is_highest & (is_ignored == 0))
        shift = tl.where(is_ignored, 0.0, rows.finite_or_zero(maximum))
        log_total = tl.where(is_ignored, 0.0, log_total)
        rows.store_logsumexp(logsumexp_parts, row, shift, log_total)
    if DRAWS and WRITES:
        factor = 1.0 if scale is None else tl.load(scale)
        tl.debug_barrier()  # every warp has read its share of the row for the draw: now it may be overwritten
        for tile in range(0, tiles, WARPS):
            columns = rows.block_columns(tile, VECTOR, WARPS)
            gradient = rows.softmax_columns(
                start,
                bias,
                columns,
                shift,
                log_total,
                factor,
                is_ignored,
                size,
                step,
                VECTOR,
                BIAS_VECTOR,
                PADS,
            )
            inside = rows.is_inside(columns, size, VECTOR)
            tl.store(start + rows.places(columns, step, VECTOR), gradient, inside)
        tl.debug_barrier()  # the soft-max is written; now, less one without cancellation, its target
        is_column = (target >= 0) & (target < size) & (is_ignored == 0)
        at_target = rows.expm1((target_logit - shift) - log_total) * factor
        tl.store(start + rows.places(target, step, VECTOR), at_target, is_column)


@triton.jit(
    do_not_specialize=["count", "ignore_index"],
    do_not_specialize_on_alignment=["losses", "targets"],
)
def reduce_losses(
    losses,  # [N] float32, or None to have the denominator alone
    targets,  # [N]
    normalizer,  # one float64, or None
    loss,  # one float32
    denominator,  # one float64
    reciprocal,  # one float32
    count,
    ignore_index,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program, so that the order of the sum is fixed; N numbers are few beside N rows."""
    total = tl.zeros([BLOCK], tl.float64)
    counted = tl.zeros([BLOCK], tl.int64)
    for start in range(0, count, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < count
        if losses is not None:
            total += tl.load(losses + index, inside, 0.0).to(tl.float64)
        if MEAN and normalizer is None:
            target = tl.load(targets + index, inside, 0)
            counted += (inside & (target != ignore_index)).to(tl.int64)
    divisor = tl.sum(counted, 0).to(tl.float64)
    if normalizer is not None:
        divisor = tl.load(normalizer)
    elif not MEAN:
        divisor = divisor + 1
    factor = reciprocal_or_zero(divisor)
    tl.store(denominator, divisor)
    tl.store(reciprocal, factor.to(tl.float32))
    if losses is not None:
        tl.store(loss, (tl.sum(total, 0) * factor).to(tl.float32))


@triton.jit(
    do_not_specialize=["stride", "step", "size", "blocks", "count"],
    do_not_specialize_on_alignment=["offsets", "scale"],
)
def scale_rows_(
    gradient,  # N rows of size elements
    offsets,  # [N] or None
    scale,  # [N], or one number; float32
    stride,
    step,
    size,
    blocks,
    count,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    PER_ROW: tl.constexpr,
):
    """As many programs as run at once take turns at blocks x N = count blocks, and leave if there is nothing to do."""
    if not PER_ROW and tl.load(scale) == 1:
        return
    for block in range(tl.program_id(0), count, tl.num_programs(0)):
        row = block // blocks
        columns = block % blocks * BLOCK + tl.arange(0, BLOCK)
        place = gradient + rows.row_start(offsets, stride, row, VECTOR) + rows.places(columns, step, VECTOR)
        inside = rows.is_inside(columns, size, VECTOR)
        factor = tl.load(scale + (row if PER_ROW else 0))
        tl.store(place, tl.load(place, inside).to(tl.float32) * factor, inside)


def _visit(
    view: launch.Rows,
    bias: Tensor | None,
    targets: Tensor,
    uniforms: Tensor,
    ignore_index: int,
    temperature: float,
    ban_original: bool,
    *,
    overwrites: bool,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, tokens, is_top1, each [...], and logsumexp_parts [..., 2]; with ``overwrites`` the rows become their
    gradient."""
    device = view.tensor.device
    losses = torch.empty(targets.shape, dtype=torch.float32, device=device)
    logsumexp_parts = torch.empty(*targets.shape, 2, dtype=torch.float32, device=device)
    tokens = torch.empty(targets.shape, dtype=torch.int64, device=device)
    is_top1 = torch.empty(targets.shape, dtype=torch.bool, device=device)
    results = losses, tokens, is_top1, logsumexp_parts
    if view.number == 0:
        return results
    targets, uniforms = targets.contiguous(), uniforms.contiguous()
    tiles = triton.cdiv(view.size, rows.TILE.value)
    padded_tiles = triton.next_power_of_2(tiles)
    warps = min(_WARPS, padded_tiles)
    statistics = losses.new_empty(view.number, 3, tiles)
    halves = launch.halves(view.number, triton.cdiv(tiles, warps), device)
    for parts, visits, draws in halves:
        launch.run(
            cross_entropy_rows,
            parts * view.number,
            view.tensor,
            view.offsets,
            bias,
            targets,
            uniforms,
            scale,
            statistics,
            *results,
            view.stride,
            view.step,
            view.size,
            tiles,
            parts,
            ignore_index,
            1 / temperature,
            VECTOR=view.vector,
            BIAS_VECTOR=launch.bias_vector(bias),
            TILES=padded_tiles,
            WARPS=warps,
            TEMPERED=temperature != 1,
            BANS=ban_original,
            PADS=view.pads,
            VISITS=visits,
            DRAWS=draws,
            WRITES=overwrites and visits,
            num_warps=warps,
            **launch.most_registers(_REGISTERS),
        )
    if overwrites and len(halves) == 2:
        write_softmax(view, bias, logsumexp_parts, targets, scale, None, view, ignore_index)
    return results


def _reduce(
    losses: Tensor | None, targets: Tensor, normalizer: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss [] (unwritten without ``losses``), the denominator [] in float64 and its reciprocal [] in float32."""
    loss, reciprocal = (torch.empty((), dtype=torch.float32, device=targets.device) for _ in range(2))
    denominator = torch.empty((), dtype=torch.float64, device=targets.device)
    launch.run(
        reduce_losses,
        1,
        losses,
        targets.contiguous(),
        normalizer,
        loss,
        denominator,
        reciprocal,
        targets.numel(),
        ignore_index,
        MEAN=reduction == "mean",
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )
    return loss, denominator, reciprocal


def cross_entropy_sample(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    options = (ignore_index, temperature, ban_original)
    losses, tokens, is_top1, logsumexp_parts = _visit(
        launch.rows_of(logits), None, targets, uniforms, *options, overwrites=False
    )
    loss, denominator, _ = _reduce(losses, targets, normalizer, ignore_index, reduction)
    return (losses if reduction == "none" else loss), tokens, is_top1, logsumexp_parts, denominator


def cross_entropy_sample_backward(
    grad_loss: Tensor,
    logits: Tensor,
    targets: Tensor,
    logsumexp_parts: Tensor,
    denominator: Tensor,
    ignore_index: int,
) -> Tensor:
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    views = launch.rows_of(logits), launch.rows_of(gradient)
    write_softmax(views[0], None, logsumexp_parts, targets, grad_loss, denominator, views[1], ignore_index)
    return gradient


def cross_entropy_sample_(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, _, scale = _reduce(None, targets, normalizer, ignore_index, reduction)
    is_later = logits.dtype == torch.float16
    losses, tokens, is_top1, _ = _visit(
        launch.rows_of(logits),
        None,
        targets,
        uniforms,
        ignore_index,
        temperature,
        ban_original,
        overwrites=True,
        scale=None if is_later else scale,
    )
    loss, _, _ = _reduce(losses, targets, normalizer, ignore_index, reduction)
    return loss, tokens, is_top1, scale if is_later else torch.ones_like(scale)


def scale_gradient_(gradient: Tensor, scale: Tensor) -> None:
    view = launch.rows_of(gradient)
    if view.number == 0:
        return
    block = 4096
    blocks = triton.cdiv(view.size, block)
    count = blocks * view.number
    launch.run(
        scale_rows_,
        min(count, 8 * launch.multiprocessors(gradient.device)),
        view.tensor,
        view.offsets,
        scale.contiguous(),
        view.stride,
        view.step,
        view.size,
        blocks,
        count,
        VECTOR=view.vector,
        BLOCK=block,
        PER_ROW=scale.dim() > 0,
        num_warps=_WARPS,
    )


def _visit_chunk(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    uniforms: Tensor,
    ignore_index: int,
    temperature: float,
    ban_original: bool,
    writes_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    view = launch.rows_of(logits, owns_padding=True)
    options = (ignore_index, temperature, ban_original)
    return _visit(view, bias, targets, uniforms, *options, overwrites=writes_gradient)


def _write_gradient(
    logits: Tensor, bias: Tensor | None, targets: Tensor, logsumexp_parts: Tensor, ignore_index: int
) -> None:
    view = launch.rows_of(logits, owns_padding=True)
    write_softmax(view, bias, logsumexp_parts, targets, None, None, view, ignore_index)


_ROW_KERNELS = RowKernels(_visit_chunk, _write_gradient)
# The loop over chunks is the specification's; between its GEMMs run the kernels of this file.
_loop: Callable[..., tuple[Tensor, ...]] = reference.linear_cross_entropy_sample
_backward_loop: Callable[..., tuple[Tensor, ...]] = reference.linear_cross_entropy_sample_backward


def linear_cross_entropy_sample(*arguments: Any) -> tuple[Tensor, ...]:
    return _loop(*arguments, _ROW_KERNELS)


def linear_cross_entropy_sample_backward(*arguments: Any) -> tuple[Tensor, ...]:
    return _backward_loop(*arguments, _ROW_KERNELS)
