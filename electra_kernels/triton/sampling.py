"""`sample_tokens` and its gradient: see electra_kernels/ops/sampling.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import draw, launch, rows
from electra_kernels.triton.gradients import write_softmax

_WARPS = 4
# Register cap per thread, above the kernel's need. Without it ptxas spills in order to raise occupancy.
_REGISTERS = 96


@triton.jit(
    do_not_specialize=["stride", "step", "size", "tiles", "parts"],
    do_not_specialize_on_alignment=[
        "offsets",
        "banned",
        "uniforms",
        "statistics",
        "logsumexp",
        "logsumexp_parts",
        "tokens",
    ],
)
def sample_rows(
    logits,  # [N, size], float32, bfloat16 or float16
    offsets,  # [N] int64, elements to each row, or None
    banned,  # [N] int64, or None
    uniforms,  # [N] float64
    statistics,  # [N, 3, tiles] float32: maximum, sum and drawable sum of each tile
    logsumexp,  # [N] float32, or None
    logsumexp_parts,  # [N, 2] float32; None if logsumexp is
    tokens,  # [N] int64
    stride,  # Elements from row to row of logits.
    step,  # Elements from column to column of logits.
    size,  # Columns of a row.
    tiles,  # Tiles of a row.
    parts,  # Programs that share the scan of a row.
    inverse_temperature,
    VECTOR: tl.constexpr,  # Elements of a load of logits, as in launch.Rows.
    TILES: tl.constexpr,  # Tiles of a row, padded to a power of two.
    WARPS: tl.constexpr,  # Warps of a program.
    TEMPERED: tl.constexpr,  # Whether the temperature is not 1.
    BANS: tl.constexpr,  # Whether a row never draws its banned token.
    SKIPS: tl.constexpr,  # Whether a row whose banned token is negative draws nothing.
    SCANS: tl.constexpr,  # Whether this launch scans the rows.
    DRAWS: tl.constexpr,  # Whether this launch draws from the rows.
):
    """Log-sum-exp of every row, and a token drawn from its soft-max by one uniform number.

    Fuses soft-max, log-sum-exp and draw: each logit is read once and one tile a second time (two if a token is banned),
    and no tensor of probabilities is written. Fusing is legal because both results follow from three numbers per tile,
    and the draw inside a tile needs only that tile. A program keeps nothing else, so many programs share a
    multiprocessor and hide each other's latency.

    Either a program per row scans and draws (parts = 1), or parts x N programs scan and a second launch of N programs
    draws.
    """
    row = tl.program_id(0) // parts
    start = logits + rows.row_start(offsets, stride, row, VECTOR)
    statistics += row.to(tl.int64) * 3 * tiles
    ban = tl.load(banned + row) if BANS or SKIPS else -1
    if SCANS:
        first, last = rows.part_of_row(tl.program_id(0) % parts, parts, tiles, WARPS)
        if SKIPS:
            last = tl.where(ban < 0, first, last)
        rows.scan_tiles(
            start, size, step, inverse_temperature, statistics, first, last, tiles, VECTOR, WARPS, TEMPERED
        )  # fmt: skip
    if SCANS and DRAWS:
        tl.debug_barrier()  # The draw reads statistics that other warps have written.
    if DRAWS:
        maxima, sums, drawable = rows.load_statistics(statistics, tiles, TILES, TEMPERED)
        maximum, log_total, is_good = rows.row_total(maxima, sums)
        u = tl.load(uniforms + row)
        token = draw.draw_token(
            start, maxima, drawable, u, ban, size, step, inverse_temperature, VECTOR, BANS
        )
        if SKIPS:
            is_good = is_good & (ban >= 0)
        tl.store(tokens + row, tl.where(is_good, token, -1))
        if logsumexp is not None:
            shift = rows.finite_or_zero(maximum)
            tl.store(logsumexp + row, shift + log_total)
            rows.store_logsumexp(logsumexp_parts, row, shift, log_total)


def draw_tokens(
    logits: Tensor,
    banned: Tensor | None,
    uniforms: Tensor,
    temperature: float,
    *,
    bans: bool,
    skips: bool = False,
    logsumexp: Tensor | None = None,
    logsumexp_parts: Tensor | None = None,
) -> Tensor:
    """Launch `sample_rows`.

    Args:
        logits: [..., V], float32, bfloat16 or float16, any strides.
        banned: [...] int64, or None; a negative one bans nothing.
        uniforms: [...] float64 in [0, 1).
        temperature: the draw is from softmax(logits / temperature).
        bans: whether a banned token is never drawn.
        skips: whether a row whose banned token is negative draws nothing.
        logsumexp: [...] float32 without gaps, to be written at temperature 1, or None.
        logsumexp_parts: [..., 2] float32 without gaps, to be written; None if ``logsumexp`` is.

    Returns:
        Tokens [...] int64; -1 where nothing was drawn.
    """
    view = launch.rows_of(logits)
    tokens = torch.empty(uniforms.shape, dtype=torch.int64, device=logits.device)
    if view.count == 0:
        return tokens
    tiles = triton.cdiv(view.size, rows.TILE.value)
    padded_tiles = triton.next_power_of_2(tiles)
    warps = min(_WARPS, padded_tiles)
    statistics = torch.empty(view.count, 3, tiles, dtype=torch.float32, device=logits.device)
    banned = None if banned is None else banned.contiguous()
    uniforms = uniforms.contiguous()
    for parts, scans, draws in launch.row_passes(view.count, triton.cdiv(tiles, warps), logits.device):
        launch.run(
            sample_rows,
            parts * view.count,
            *(view.tensor, view.offsets, banned, uniforms, statistics, logsumexp, logsumexp_parts, tokens),
            *(view.stride, view.step, view.size, tiles, parts, 1 / temperature),
            VECTOR=view.vector,
            TILES=padded_tiles,
            WARPS=warps,
            TEMPERED=temperature != 1,
            BANS=bans,
            SKIPS=skips,
            SCANS=scans,
            DRAWS=draws,
            num_warps=warps,
            **launch.register_cap(_REGISTERS),
        )
    return tokens


def sample_tokens(
    logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments as in `draw_tokens`.

    Returns:
        Log-sum-exp [...] float32, tokens [...] int64, and the log-sum-exp in two parts [..., 2] float32: maximum and
        logarithm of the sum of exp(x - maximum).
    """
    logsumexp = torch.empty(uniforms.shape, dtype=torch.float32, device=logits.device)
    parts = torch.empty(*uniforms.shape, 2, dtype=torch.float32, device=logits.device)
    tokens = draw_tokens(
        logits,
        banned,
        uniforms,
        temperature,
        bans=banned is not None,
        logsumexp=logsumexp,
        logsumexp_parts=parts,
    )
    return logsumexp, tokens, parts


def sample_tokens_backward(grad_logsumexp: Tensor, logits: Tensor, logsumexp_parts: Tensor) -> Tensor:
    """Gradient of the logits [..., V] in their dtype; grad_logsumexp [...] and logsumexp_parts [..., 2] are float32."""
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    source, out = launch.rows_of(logits), launch.rows_of(gradient)
    write_softmax(source, logsumexp_parts, None, grad_logsumexp, None, out)
    return gradient
