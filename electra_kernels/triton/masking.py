"""Masking: one program per row picks its tokens and writes all three outputs, in one kernel.

Slot j takes the floor(u (n - j))-th of the tokens that are left. Taking tokens out one by one is a chain over the
slots; putting them back is none: a slot knows its rank among what was left at its turn, and each earlier slot, from the
latest to the first, raises the ranks from its own upwards by one, which gives the rank among all n maskable tokens. So
all slots of a row walk back at once, one number in a register each, with nothing to exchange.

A rank becomes a position through a table that the program writes while it counts: the position of every maskable token
of the row, in order. It is read again by other threads of the same program, behind a barrier, as are the masked ids.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch

_BLOCK = 1024  # tokens, or slots, at a time


@triton.jit
def _rank_among_left(uniform, left):
    """floor(u left): in float64, and never out of range whatever u is."""
    rank = (uniform * left.to(tl.float64)).to(tl.int32)
    return tl.maximum(tl.minimum(rank, left - 1), 0)


@triton.jit
def _written(
    action, original, mask_token_id, vocab_size, mask_fraction, random_from, random_fraction, HAS_RANDOM
):
    """The id that is written where ``original`` stood."""
    written = tl.where(action < mask_fraction, mask_token_id, original)
    if HAS_RANDOM:
        remainder = (action - random_from) / random_fraction
        is_random = (remainder >= 0) & (action >= mask_fraction)
        random_id = (remainder * vocab_size.to(tl.float64)).to(tl.int64)
        written = tl.where(is_random, tl.minimum(random_id, vocab_size - 1), written)
    return written


@triton.jit(
    do_not_specialize=["slots", "mask_token_id", "vocab_size", "uniform_row", "uniform_step"],
    do_not_specialize_on_alignment=["uniforms", "positions", "targets"],
)
def mask_rows(
    input_ids,  # [B, T]
    maskable,  # [B, T] bool
    uniforms,  # [B, K, 2] float64
    masked_ids,  # [B, T]
    positions,  # [B, K]
    targets,  # [B, K]
    table,  # [B, T] int32: positions of the maskable tokens of each row
    length,
    slots,
    mask_token_id,
    vocab_size,
    probability: tl.float64,
    mask_fraction: tl.float64,
    random_from: tl.float64,
    random_fraction: tl.float64,
    id_row,
    id_step,
    maskable_row,
    maskable_step,
    uniform_row,
    uniform_step,
    uniform_pair,
    HAS_RANDOM: tl.constexpr,
    TOKENS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    input_ids += row * id_row
    maskable += row * maskable_row
    uniforms += row * uniform_row
    masked_ids += row * length
    table += row * length
    count = tl.full((), 0, tl.int32)
    for first in range(0, length, TOKENS):
        token = first + tl.arange(0, TOKENS)
        inside = token < length
        ids = tl.load(input_ids + token.to(tl.int64) * id_step, mask=inside, other=0)
        flags = tl.load(maskable + token.to(tl.int64) * maskable_step, mask=inside, other=0) != 0
        tl.store(masked_ids + token, ids, mask=inside)
        rank = count + tl.cumsum(flags.to(tl.int32)) - 1
        tl.store(table + rank, token, mask=flags)
        count += tl.sum(flags.to(tl.int32))
    # In float64, and no fused multiply-add: each of product and sum is rounded, as in the reference.
    used = (probability * count.to(tl.float64) + 0.5).to(tl.int32)
    used = tl.minimum(tl.minimum(tl.maximum(used, 1), count), slots)
    tl.debug_barrier()
    for first in range(0, slots, SLOTS):
        slot = first + tl.arange(0, SLOTS)
        inside = slot < slots
        is_used = slot < used
        pair = uniforms + slot.to(tl.int64) * uniform_step
        rank = _rank_among_left(tl.load(pair, mask=is_used, other=0), count - slot)
        earlier_slots = tl.minimum(used, first + SLOTS - 1)
        for step in range(earlier_slots):
            earlier = earlier_slots - 1 - step
            uniform = tl.load(uniforms + earlier.to(tl.int64) * uniform_step)
            taken = _rank_among_left(uniform, count - earlier)
            rank += ((slot > earlier) & (rank >= taken)).to(tl.int32)
        position = tl.load(table + rank, mask=is_used, other=0).to(tl.int64)
        original = tl.load(input_ids + position * id_step, mask=is_used, other=-100)
        action = tl.load(pair + uniform_pair, mask=is_used, other=0)
        written = _written(
            action,
            original,
            mask_token_id,
            vocab_size,
            mask_fraction,
            random_from,
            random_fraction,
            HAS_RANDOM,
        )
        tl.store(masked_ids + position, written, mask=is_used)
        tl.store(positions + row * slots + slot, position, mask=inside)
        tl.store(targets + row * slots + slot, original, mask=inside)


def mask_tokens(
    input_ids: Tensor,
    maskable: Tensor,
    uniforms: Tensor,
    mask_token_id: int,
    vocab_size: int,
    probability: float,
    mask_fraction: float,
    random_fraction: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, maskable (bool) [B, T], uniforms [B, K, 2] → masked ids [B, T], positions, targets [B, K]."""
    (batch, length), slots = input_ids.shape, uniforms.shape[1]
    masked_ids = input_ids.new_empty((batch, length))
    positions, targets = input_ids.new_empty((batch, slots)), input_ids.new_empty((batch, slots))
    if batch == 0:
        return masked_ids, positions, targets
    table = input_ids.new_empty((batch, length), dtype=torch.int32)
    launch.run(
        mask_rows,
        batch,
        *(input_ids, maskable, uniforms, masked_ids, positions, targets, table),
        *(length, slots, mask_token_id, vocab_size),
        *(probability, mask_fraction, 1.0 - random_fraction, random_fraction),
        *(*input_ids.stride(), *maskable.stride(), *uniforms.stride()),
        num_warps=1 if length <= _BLOCK else 4,
        HAS_RANDOM=random_fraction > 0,
        TOKENS=min(_BLOCK, triton.next_power_of_2(max(1, length))),
        SLOTS=min(_BLOCK, triton.next_power_of_2(max(1, slots))),
    )
    return masked_ids, positions, targets
