"""`row_sums`, the scan of a row of which other ranks have other slices.

See electra_kernels/backends/vocab_parallel.py.
"""

import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import draw, launch, rows

_WARPS = 4
# Register cap per thread, above the kernel's need. Without it ptxas spills in order to raise occupancy.
_REGISTERS = 96


@triton.jit(
    do_not_specialize=["stride", "step", "size", "tiles", "parts", "ignore_index"],
    do_not_specialize_on_alignment=["offsets", "targets", "statistics", "sums"],
)
def slice_sums(
    logits,  # [N, size], float32, bfloat16 or float16
    offsets,  # [N] int64, elements to each row, or None
    targets,  # [N] int64; outside of [0, size) if another slice has the target
    statistics,  # [N, 3, tiles] float32: maximum, sum and drawable sum of each tile
    sums,  # [N, 4] float32: maximum, sum, drawable sum, logit of the target
    stride,  # Elements from row to row of logits.
    step,  # Elements from column to column of logits.
    size,  # Columns of a row.
    tiles,  # Tiles of a row.
    parts,  # Programs that share the scan of a row.
    ignore_index,  # Target of the rows that get zeros.
    inverse_temperature,
    VECTOR: tl.constexpr,  # Elements of a load of logits, as in launch.Rows.
    TILES: tl.constexpr,  # Tiles of a row, padded to a power of two.
    WARPS: tl.constexpr,  # Warps of a program.
    TEMPERED: tl.constexpr,  # Whether the temperature is not 1.
    BANS: tl.constexpr,  # Whether the target is left out of maximum and sums.
    SCANS: tl.constexpr,  # Whether this launch scans the rows.
    SUMS: tl.constexpr,  # Whether this launch adds up the tiles.
):
    """Four numbers of a row: what the other ranks have to know of this slice.

    A row is read once, and the target's tile a second time if the target is left out. Either a program per row does
    everything (parts = 1), or parts x N programs scan and a second launch of N programs adds up.
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
    if SCANS and SUMS:
        tl.debug_barrier()  # The sums read statistics that other warps have written.
    if SUMS:
        maxima, totals, drawable = rows.load_statistics(statistics, tiles, TILES, TEMPERED)
        is_here = (target >= 0) & (target < size)
        if BANS:
            tile = tl.where(is_here, target, 0).to(tl.int32) // rows.TILE
            x, maximum = draw.load_tile(start, tile, target, size, step, VECTOR, BANS)
            is_tile = tl.arange(0, TILES) == tile
            maxima = tl.where(is_tile, maximum, maxima)
            totals = tl.where(is_tile, tl.sum(rows.exponential(x), 0), totals)
            drawable = tl.where(is_tile, tl.sum(rows.exponential(x * inverse_temperature), 0), drawable)
        maximum = tl.max(maxima, 0)
        distances = maxima - rows.finite_or_zero(maximum)
        total = tl.sum((totals * rows.exponential(distances)).to(tl.float64), 0).to(tl.float32)
        shares = drawable * rows.exponential(distances * inverse_temperature)
        # The maximum may miss a NaN, but the sum of exponentials does not: it is NaN or +inf in a bad row.
        maximum = tl.where(total < rows.INFINITY, maximum, total)
        target_logit = tl.where(is_here, rows.load_logit(start, target, size, step, VECTOR), -rows.INFINITY)
        sums += row.to(tl.int64) * 4
        tl.store(sums, tl.where(is_ignored, 0.0, maximum))
        tl.store(sums + 1, tl.where(is_ignored, 0.0, total))
        tl.store(sums + 2, tl.where(is_ignored, 0.0, tl.sum(shares.to(tl.float64), 0).to(tl.float32)))
        tl.store(sums + 3, tl.where(is_ignored, 0.0, target_logit))


def row_sums(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int,
    temperature: float,
    ban_original: bool,
    sums: Tensor,
) -> None:
    """Logits [N, V] in a padded buffer, targets [N] int64, sums [N, 4] float32 to be written, contiguous."""
    view = launch.rows_of(logits, owns_padding=True)
    if view.count == 0:
        return
    tiles = triton.cdiv(view.size, rows.TILE.value)
    padded_tiles = triton.next_power_of_2(tiles)
    warps = min(_WARPS, padded_tiles)
    statistics = sums.new_empty(view.count, 3, tiles)
    for parts, scans, adds in launch.row_passes(view.count, triton.cdiv(tiles, warps), logits.device):
        launch.run(
            slice_sums,
            parts * view.count,
            *(view.tensor, view.offsets, targets.contiguous(), statistics, sums),
            *(view.stride, view.step, view.size, tiles, parts, ignore_index, 1 / temperature),
            VECTOR=view.vector,
            TILES=padded_tiles,
            WARPS=warps,
            TEMPERED=temperature != 1,
            BANS=ban_original,
            SCANS=scans,
            SUMS=adds,
            num_warps=warps,
            **launch.register_cap(_REGISTERS),
        )
