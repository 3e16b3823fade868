"""`sample_tokens`, its gradient, `replace_tokens` and `sample_replacements`: see electra_kernels/ops/sampling.py.

`sample_rows` reads each logit once and one tile a second time. It keeps nothing but three numbers per tile, so many
programs share a multiprocessor and hide each other's latency. `replace_rows` copies the ids, scatters the tokens and
labels them in one launch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch, rows
from electra_kernels.triton.softmax import write_softmax

_WARPS = 4
# Of a thread, more than it needs: left to itself, ptxas spills to have more programs on a multiprocessor.
_REGISTERS = 96
_BLOCK = 1024


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
    logits,  # N rows of size elements
    offsets,  # [N] or None
    banned,  # [N] or None
    uniforms,  # [N] float64
    statistics,  # [N, 3, tiles] float32
    logsumexp,  # [N] float32, or None
    logsumexp_parts,  # [N, 2] float32, or None with it
    tokens,  # [N] int64
    stride,
    step,
    size,
    tiles,
    parts,
    inverse_temperature,
    VECTOR: tl.constexpr,
    TILES: tl.constexpr,
    WARPS: tl.constexpr,
    TEMPERED: tl.constexpr,
    BANS: tl.constexpr,
    SKIPS: tl.constexpr,  # rows whose banned token is negative draw nothing
    VISITS: tl.constexpr,
    DRAWS: tl.constexpr,
):
    """A program per row that visits and draws; or parts x N that visit, then N that draw."""
    row = tl.program_id(0) // parts
    start = logits + rows.row_start(offsets, stride, row, VECTOR)
    statistics += row.to(tl.int64) * 3 * tiles
    ban = tl.load(banned + row) if BANS or SKIPS else -1
    if VISITS:
        first, last = rows.part_of_row(tl.program_id(0) % parts, parts, tiles, WARPS)
        if SKIPS:
            last = tl.where(ban < 0, first, last)
        rows.visit_tiles(
            start,
            None,
            size,
            step,
            inverse_temperature,
            statistics,
            first,
            last,
            tiles,
            VECTOR,
            1,
            WARPS,
            TEMPERED,
        )
    if VISITS and DRAWS:
        tl.debug_barrier()  # what other warps have written is about to be read
    if DRAWS:
        maxima, sums, drawable = rows.load_statistics(statistics, tiles, TILES, TEMPERED)
        maximum, log_total, is_good = rows.row_total(maxima, sums)
        u = tl.load(uniforms + row)
        token = rows.draw_token(
            start, None, maxima, drawable, u, ban, size, step, inverse_temperature, VECTOR, 1, BANS
        )
        if SKIPS:
            is_good = is_good & (ban >= 0)
        tl.store(tokens + row, tl.where(is_good, token, -1))
        if logsumexp is not None:
            shift = rows.finite_or_zero(maximum)
            tl.store(logsumexp + row, shift + log_total)
            rows.store_logsumexp(logsumexp_parts, row, shift, log_total)


@triton.jit(
    do_not_specialize=["slots"],
    do_not_specialize_on_alignment=["positions", "tokens"],
)
def replace_rows(
    input_ids,  # B rows of length elements
    positions,  # [B, slots]
    tokens,  # [B, slots]
    replaced,  # [B, length]
    is_replaced,  # [B, length] bool
    stride,
    step,
    length,
    slots,
    BLOCK: tl.constexpr,
):
    """A program per row: copy it, then write over the copy; what was there is read from the original."""
    row = tl.program_id(0).to(tl.int64)
    source = input_ids + row * stride
    replaced += row * length
    is_replaced += row * length
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        ids = tl.load(source + column.to(tl.int64) * step, column < length)
        tl.store(replaced + column, ids, column < length)
        tl.store(is_replaced + column, tl.zeros([BLOCK], tl.int1), column < length)
    tl.debug_barrier()  # every warp has written its part of the copy
    for start in range(0, slots, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        token = tl.load(tokens + row * slots + slot, slot < slots, -1)
        position = tl.load(positions + row * slots + slot, slot < slots, -1)
        is_used = (token >= 0) & (position >= 0) & (position < length)
        original = tl.load(source + position * step, is_used, -1)
        tl.store(replaced + position, token, is_used)
        tl.store(is_replaced + position, token != original, is_used)


def _sample(
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
    """Tokens [...]; both tensors of log-sum-exps [...] are written if they are given."""
    view = launch.rows_of(logits)
    tokens = torch.empty(uniforms.shape, dtype=torch.int64, device=logits.device)
    if view.number == 0:
        return tokens
    tiles = triton.cdiv(view.size, rows.TILE.value)
    padded_tiles = triton.next_power_of_2(tiles)
    warps = min(_WARPS, padded_tiles)
    statistics = torch.empty(view.number, 3, tiles, dtype=torch.float32, device=logits.device)
    banned = None if banned is None else banned.contiguous()
    uniforms = uniforms.contiguous()
    for parts, visits, draws in launch.halves(view.number, triton.cdiv(tiles, warps), logits.device):
        launch.run(
            sample_rows,
            parts * view.number,
            view.tensor,
            view.offsets,
            banned,
            uniforms,
            statistics,
            logsumexp,
            logsumexp_parts,
            tokens,
            view.stride,
            view.step,
            view.size,
            tiles,
            parts,
            1 / temperature,
            VECTOR=view.vector,
            TILES=padded_tiles,
            WARPS=warps,
            TEMPERED=temperature != 1,
            BANS=bans,
            SKIPS=skips,
            VISITS=visits,
            DRAWS=draws,
            num_warps=warps,
            **launch.most_registers(_REGISTERS),
        )
    return tokens


def sample_tokens(
    logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp [...], tokens [...], and the log-sum-exp in float64."""
    logsumexp = torch.empty(uniforms.shape, dtype=torch.float32, device=logits.device)
    parts = torch.empty(*uniforms.shape, 2, dtype=torch.float32, device=logits.device)
    tokens = _sample(
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
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    views = launch.rows_of(logits), launch.rows_of(gradient)
    write_softmax(views[0], None, logsumexp_parts, None, grad_logsumexp, None, views[1])
    return gradient


def replace_tokens(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    replaced = torch.empty(input_ids.shape, dtype=torch.int64, device=input_ids.device)
    is_replaced = torch.empty(input_ids.shape, dtype=torch.bool, device=input_ids.device)
    batch, length = input_ids.shape
    if replaced.numel() > 0:
        launch.run(
            replace_rows,
            batch,
            input_ids,
            positions.contiguous(),
            tokens.contiguous(),
            replaced,
            is_replaced,
            *input_ids.stride(),
            length,
            positions.shape[1],
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
    return replaced, is_replaced


def sample_replacements(
    logits: Tensor,
    input_ids: Tensor,
    positions: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor]:
    tokens = _sample(logits, targets, uniforms, temperature, bans=ban_original, skips=True)
    return replace_tokens(input_ids, positions, tokens)
