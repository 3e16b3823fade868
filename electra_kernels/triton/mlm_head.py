"""`cross_entropy_sample` with its gradient and in-place form, and the row kernels of the linear head.

See electra_kernels/ops/mlm_head.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import draw, launch, rows
from electra_kernels.triton.gradients import scale_rows, write_softmax
from electra_kernels.triton.reduce import reduce_rows

# Warps of a row: enough that the rows in flight fit into the cache, few enough that several rows hide each other's
# latency.
_WARPS = 8
# Register cap per thread, above the kernel's need. Without it ptxas spills in order to raise occupancy.
_REGISTERS = 128


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
        "logsumexp",
        "logsumexp_parts",
    ],
)
def cross_entropy_rows(
    logits,  # [N, size], float32, bfloat16 or float16; become their gradient if WRITES
    offsets,  # [N] int64, elements to each row, or None
    targets,  # [N] int64
    uniforms,  # [N] float64
    scale,  # [] float32 that multiplies the gradient, or None for 1
    statistics,  # [N, 3, tiles] float32: maximum, sum and drawable sum of each tile
    losses,  # [N] float32
    tokens,  # [N] int64
    is_top1,  # [N] bool
    logsumexp,  # [N] float32
    logsumexp_parts,  # [N, 2] float32
    stride,  # Elements from row to row of logits.
    step,  # Elements from column to column of logits.
    size,  # Columns of a row.
    tiles,  # Tiles of a row.
    parts,  # Programs that share the scan of a row.
    ignore_index,  # Target of the rows that have loss 0, token -1 and gradient 0.
    z_loss,
    inverse_temperature,
    VECTOR: tl.constexpr,  # Elements of a load of logits, as in launch.Rows.
    TILES: tl.constexpr,  # Tiles of a row, padded to a power of two.
    WARPS: tl.constexpr,  # Warps of a program.
    TEMPERED: tl.constexpr,  # Whether the temperature is not 1.
    BANS: tl.constexpr,  # Whether a row never draws its target.
    PADS: tl.constexpr,  # Whether the last vector of a row reaches into its padding, which must stay -inf.
    SCANS: tl.constexpr,  # Whether this launch scans the rows.
    DRAWS: tl.constexpr,  # Whether this launch writes losses and draws from the rows.
    WRITES: tl.constexpr,  # Whether it scans, draws and overwrites the rows with their gradient.
):
    """Loss, sampled token, top-1 flag and (in place) gradient of a row, in one program.

    Fuses soft-max, loss, draw and gradient: memory is read once and written once, instead of the eight passes of
    eager soft-max, loss, sample and gradient. The gradient reads the row again, but from the cache, as long as that
    holds the rows in flight: on an H100 three or four per multiprocessor, which at V = 30,522 in bfloat16 are 30 of its
    50 MB. (A row of 30,522 kept in registers spills, with 16 warps and with 32.)

    Overwriting is legal because the draw and the logit at the target are the only reads of other threads' columns, and
    both come before the first write, with a barrier between.

    Either a program per row does everything (parts = 1), or, with too few rows to fill the GPU, parts x N programs
    scan, a second launch of N programs draws, and `gradients.softmax_rows` writes the gradient.
    """
    row = tl.program_id(0) // parts
    start = logits + rows.row_start(offsets, stride, row, VECTOR)
    statistics += row.to(tl.int64) * 3 * tiles
    target = tl.load(targets + row)
    is_ignored = target == ignore_index
    if SCANS:
        first, last = rows.part_of_row(tl.program_id(0) % parts, parts, tiles, WARPS)
        last = tl.where(is_ignored, first, last)
        rows.scan_tiles(
            start, size, step, inverse_temperature, statistics, first, last, tiles, VECTOR, WARPS, TEMPERED
        )  # fmt: skip
    if SCANS and DRAWS:
        tl.debug_barrier()  # The draw reads statistics that other warps have written.
    if DRAWS:
        maxima, sums, drawable = rows.load_statistics(statistics, tiles, TILES, TEMPERED)
        maximum, log_total, is_good = rows.row_total(maxima, sums)
        token = draw.draw_token(
            start, maxima, drawable, tl.load(uniforms + row), target, size, step, inverse_temperature, VECTOR, BANS
        )  # fmt: skip
        target_logit = rows.load_logit(start, target, size, step, VECTOR)
        # The maximum may skip a NaN, the sum does not.
        is_highest = (target_logit == maximum) & (log_total == log_total)
        log_total = tl.where(is_good, log_total, float("nan"))
        total = maximum + log_total
        # z_loss times the square could be 0 times infinity.
        loss = (maximum - target_logit) + log_total + (z_loss * total) * total
        tl.store(losses + row, tl.where(is_ignored, 0.0, loss))
        tl.store(tokens + row, tl.where(is_good & (is_ignored == 0), token, -1))
        tl.store(is_top1 + row, is_highest & (is_ignored == 0))
        shift = tl.where(is_ignored, 0.0, rows.finite_or_zero(maximum))
        log_total = tl.where(is_ignored, 0.0, log_total)
        tl.store(logsumexp + row, shift + log_total)
        rows.store_logsumexp(logsumexp_parts, row, shift, log_total)
    if WRITES:
        factor = 1.0 if scale is None else tl.load(scale)
        logsumexp_factor = rows.z_loss_factor(factor, z_loss, shift + log_total)
        soft_max_factor = factor + logsumexp_factor
        tl.debug_barrier()  # Every warp has read what it needs for the draw. Now the row may be overwritten.
        for tile in range(0, tiles, WARPS):
            columns = rows.block_columns(tile, VECTOR, WARPS)
            gradient = rows.softmax_columns(
                start, columns, shift, log_total, soft_max_factor, is_ignored, size, step, VECTOR, PADS
            )  # fmt: skip
            inside = rows.is_inside(columns, size, VECTOR)
            tl.store(start + rows.column_offsets(columns, step, VECTOR), gradient, inside)
        tl.debug_barrier()  # The soft-max is written. Next, it is overwritten at the target, without cancellation.
        is_column = (target >= 0) & (target < size) & (is_ignored == 0)
        at_target = rows.target_gradient((target_logit - shift) - log_total, factor, logsumexp_factor)
        tl.store(start + rows.column_offsets(target, step, VECTOR), at_target, is_column)


def _new_results(targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Losses [...], tokens [...] int64, is_top1 [...] bool, logsumexp [...] and logsumexp_parts [..., 2] float32."""
    shape = targets.shape
    return (
        targets.new_empty(shape, dtype=torch.float32),
        targets.new_empty(shape),
        targets.new_empty(shape, dtype=torch.bool),
        targets.new_empty(shape, dtype=torch.float32),
        targets.new_empty((*shape, 2), dtype=torch.float32),
    )


def _loss_and_sample(
    view: launch.Rows,
    targets: Tensor,
    uniforms: Tensor,
    ignore_index: int,
    z_loss: float,
    temperature: float,
    ban_original: bool,
    results: tuple[Tensor, ...],
    *,
    overwrites: bool,
    scale: Tensor | None = None,
) -> None:
    """Launch `cross_entropy_rows`, and `softmax_rows` if the rows are scanned in parts and overwritten.

    Args:
        view: N rows of V logits; with ``overwrites`` they become softmax - one_hot, times ``scale``.
        targets: [...] int64 with N elements.
        uniforms: [...] float64.
        ignore_index: target of the rows that have loss 0, token -1 and gradient 0.
        z_loss: weight of the squared log-sum-exp.
        temperature: the draw is from softmax(logits / temperature).
        ban_original: whether the target is never drawn.
        results: `_new_results`, to be written.
        overwrites: whether the gradient is written.
        scale: [] float32, or None for 1.
    """
    if view.count == 0:
        return
    targets, uniforms = targets.contiguous(), uniforms.contiguous()
    tiles = triton.cdiv(view.size, rows.TILE.value)
    padded_tiles = triton.next_power_of_2(tiles)
    warps = min(_WARPS, padded_tiles)
    statistics = results[0].new_empty(view.count, 3, tiles)
    passes = launch.row_passes(view.count, triton.cdiv(tiles, warps), targets.device)
    for parts, scans, draws in passes:
        launch.run(
            cross_entropy_rows,
            parts * view.count,
            *(view.tensor, view.offsets, targets, uniforms, scale, statistics, *results),
            *(view.stride, view.step, view.size, tiles, parts, ignore_index, z_loss, 1 / temperature),
            VECTOR=view.vector,
            TILES=padded_tiles,
            WARPS=warps,
            TEMPERED=temperature != 1,
            BANS=ban_original,
            PADS=view.ends_in_padding,
            SCANS=scans,
            DRAWS=draws,
            WRITES=overwrites and scans and draws,
            num_warps=warps,
            **launch.register_cap(_REGISTERS),
        )
    if overwrites and len(passes) == 2:
        write_softmax(view, results[4], targets, scale, None, view, ignore_index, z_loss=z_loss)


def cross_entropy_sample(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, ...]:
    """Arguments as in `_loss_and_sample`, with logits [..., V], normalizer [] float64 or None, and reduction.

    Returns:
        Loss [] (or [...] for reduction "none") float32, tokens [...], is_top1 [...], logsumexp [...], logsumexp_parts
        [..., 2] and the denominator [] float64.
    """
    options = (ignore_index, z_loss, temperature, ban_original)
    losses, *statistics = results = _new_results(targets)
    _loss_and_sample(launch.rows_of(logits), targets, uniforms, *options, results, overwrites=False)
    loss, denominator, _ = reduce_rows(losses, targets, normalizer, ignore_index, reduction)
    return (losses if reduction == "none" else loss), *statistics, denominator


def cross_entropy_sample_backward(
    grad_loss: Tensor,
    grad_logsumexp: Tensor | None,
    logits: Tensor,
    targets: Tensor,
    logsumexp_parts: Tensor,
    denominator: Tensor,
    ignore_index: int,
    z_loss: float,
) -> Tensor:
    """Gradient of the logits [..., V] in their dtype; ``grad_loss`` is float32 [], or [...] for reduction "none", and
    ``grad_logsumexp`` is float32 [...].
    """
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    source, out = launch.rows_of(logits), launch.rows_of(gradient)
    write_softmax(
        *(source, logsumexp_parts, targets, grad_loss, denominator, out, ignore_index),
        z_loss=z_loss,
        logsumexp_upstream=grad_logsumexp,
    )
    return gradient


def cross_entropy_sample_(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Like `cross_entropy_sample`, but the logits become their gradient.

    In float16 the gradient stays unnormalised, since 1 / denominator would flush most of it to zero.

    Returns:
        Loss [] float32, tokens [...], is_top1 [...], logsumexp [...], and the factor [] float32 that the gradient still
        lacks.
    """
    _, _, scale = reduce_rows(None, targets, normalizer, ignore_index, reduction)
    is_scaled_later = logits.dtype == torch.float16
    losses, tokens, is_top1, logsumexp, _ = results = _new_results(targets)
    _loss_and_sample(
        launch.rows_of(logits),
        *(targets, uniforms, ignore_index, z_loss, temperature, ban_original, results),
        overwrites=True,
        scale=None if is_scaled_later else scale,
    )
    loss, _, _ = reduce_rows(losses, targets, normalizer, ignore_index, reduction)
    return loss, tokens, is_top1, logsumexp, scale if is_scaled_later else torch.ones_like(scale)


def scale_gradient_(gradient: Tensor, scale: Tensor) -> None:
    """Multiply gradient [..., V], float32, bfloat16 or float16, by scale, float32 [] or [...], in place."""
    scale_rows(launch.rows_of(gradient), scale)


def cross_entropy_rows_(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    ignore_index: int,
    z_loss: float,
    temperature: float,
    ban_original: bool,
    writes_gradient: bool,
    *results: Tensor,
) -> None:
    """The linear head's row kernel of the forward, for logits [N, V] in a padded buffer; writes `_new_results`.

    With ``writes_gradient`` the logits become softmax (1 + 2 z l) - one_hot.
    """
    view = launch.rows_of(logits, owns_padding=True)
    options = (ignore_index, z_loss, temperature, ban_original)
    _loss_and_sample(view, targets, uniforms, *options, results, overwrites=writes_gradient)


def cross_entropy_rows_backward_(
    logits: Tensor, targets: Tensor, logsumexp_parts: Tensor, ignore_index: int, z_loss: float
) -> None:
    """The linear head's row kernel of the backward: the logits in the padded buffer become the same gradient."""
    view = launch.rows_of(logits, owns_padding=True)
    write_softmax(view, logsumexp_parts, targets, None, None, view, ignore_index, z_loss=z_loss)


def cross_entropy_rows_loss(
    losses: Tensor, targets: Tensor, normalizer: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """Loss [] float32 and denominator [] float64 of losses [N]; reduction is "mean" or "sum"."""
    loss, denominator, _ = reduce_rows(losses, targets, normalizer, ignore_index, reduction)
    return loss, denominator
