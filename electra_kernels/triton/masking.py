"""`mask_tokens`: see electra_kernels/ops/masking.py.

In a row with n maskable tokens, slot j takes number floor(u (n - j)) of those that earlier slots have left. Removing
tokens one by one would be a sequential chain over the slots. The kernel goes the other way instead. A slot knows its
rank among the tokens left at its turn; then each earlier slot, from the latest to the first, raises every rank that is
at least its own by one. The result is the rank among all n maskable tokens. All slots of a row do this at once, with
one number in a register each, and exchange nothing.

A rank becomes a position through a table that the program writes while it counts: the positions of the row's maskable
tokens, in order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch

_BLOCK = 1024  # Tokens, or slots, of an iteration.


@triton.jit
def _rank_among_left(uniform, left):
    """floor(uniform * left) in float64, in the range [0, left) whatever the uniform is."""
    rank = (uniform * left.to(tl.float64)).to(tl.int32)
    return tl.maximum(tl.minimum(rank, left - 1), 0)


@triton.jit
def _written_id(
    action, original, mask_token_id, vocab_size, mask_fraction, random_from, random_fraction, HAS_RANDOM
):
    """The id to write in place of ``original``: mask, original or random id, as ``action`` in [0, 1) decides.

    random_from is 1 - random_fraction. The remainder of the action above it picks the random id.
    """
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
    input_ids,  # [B, T] int64, any strides
    maskable,  # [B, T] bool, any strides
    uniforms,  # [B, K, 2] float64, any strides
    masked_ids,  # [B, T] int64
    positions,  # [B, K] int64
    targets,  # [B, K] int64
    table,  # [B, T] int32: the positions of each row's maskable tokens, in order
    length,  # T
    slots,  # K
    mask_token_id,
    vocab_size,
    probability: tl.float64,
    mask_fraction: tl.float64,
    random_from: tl.float64,  # 1 - random_fraction
    random_fraction: tl.float64,
    id_row,  # Elements from row to row of input_ids; the next four alike, of each input.
    id_step,  # Elements from token to token.
    maskable_row,
    maskable_step,
    uniform_row,
    uniform_step,  # Elements from slot to slot.
    uniform_pair,  # Elements from the first number of a slot to its second.
    HAS_RANDOM: tl.constexpr,  # Whether random_fraction is not 0.
    TOKENS: tl.constexpr,  # Tokens of an iteration.
    SLOTS: tl.constexpr,  # Slots of an iteration.
):
    """Count, pick, copy and write a row: one program per row makes all three outputs.

    Fuses what would otherwise be a chain of kernels over tensors [B, T] and [B, K]. Each id and flag is read once and
    each output written once; only at masked positions, ids and table entries are read again and masked ids are
    overwritten. Fusing is legal because rows do not depend on each other. Other threads of the same program read the
    table and overwrite masked ids, behind a barrier.
    """
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
    # Float64 without a fused multiply-add: product and sum are each rounded, as in the reference.
    used = (probability * count.to(tl.float64) + 0.5).to(tl.int32)
    used = tl.minimum(tl.minimum(tl.maximum(used, 1), count), slots)
    tl.debug_barrier()  # Every warp has written its part of the table and of the masked ids.
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
            earlier_rank = _rank_among_left(uniform, count - earlier)
            rank += ((slot > earlier) & (rank >= earlier_rank)).to(tl.int32)
        position = tl.load(table + rank, mask=is_used, other=0).to(tl.int64)
        original = tl.load(input_ids + position * id_step, mask=is_used, other=-100)
        action = tl.load(pair + uniform_pair, mask=is_used, other=0)
        written = _written_id(
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
    """Launch `mask_rows`.

    Args:
        input_ids: [B, T] int64.
        maskable: [B, T] bool.
        uniforms: [B, K, 2] float64 in [0, 1): which token a slot takes, and what is written there.
        mask_token_id: id of ``[MASK]``.
        vocab_size: V.
        probability: share of the maskable tokens that is picked.
        mask_fraction: share of the picked tokens that become ``[MASK]``.
        random_fraction: share of the picked tokens that become a random id.

    Returns:
        Masked ids [B, T], positions [B, K] and targets [B, K], int64. An unused slot has position 0 and target -100.
    """
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
