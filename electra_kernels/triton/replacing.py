"""`replace_tokens` and `sample_replacements`: see electra_kernels/ops/replacing.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton import launch
from electra_kernels.triton.sampling import draw_tokens

_BLOCK = 1024  # Ids, or slots, of an iteration.
_WARPS = 4


@triton.jit(
    do_not_specialize=["slots"],
    do_not_specialize_on_alignment=["positions", "tokens"],
)
def replace_rows(
    input_ids,  # [B, length] int64, any strides
    positions,  # [B, slots] int64
    tokens,  # [B, slots] int64, -1 for none
    replaced,  # [B, length] int64
    is_replaced,  # [B, length] bool
    stride,  # Elements from row to row of input_ids.
    step,  # Elements from column to column of input_ids.
    length,  # Ids of a row.
    slots,  # Slots of a row.
    BLOCK: tl.constexpr,  # Ids, or slots, of an iteration.
):
    """Copy the ids, scatter the tokens and label them, in one launch with a program per row.

    Each id is read once and written once, and each label written once, without the intermediate tensors of a copy, a
    scatter and a comparison. A barrier separates the copy from the scatter, which writes over it. The original ids
    are read from the input, not from the copy.
    """
    row = tl.program_id(0).to(tl.int64)
    source = input_ids + row * stride
    replaced += row * length
    is_replaced += row * length
    for start in range(0, length, BLOCK):
        column = start + tl.arange(0, BLOCK)
        ids = tl.load(source + column.to(tl.int64) * step, column < length)
        tl.store(replaced + column, ids, column < length)
        tl.store(is_replaced + column, tl.zeros([BLOCK], tl.int1), column < length)
    tl.debug_barrier()  # Every warp has written its part of the copy.
    for start in range(0, slots, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        token = tl.load(tokens + row * slots + slot, slot < slots, -1)
        position = tl.load(positions + row * slots + slot, slot < slots, -1)
        is_used = (token >= 0) & (position >= 0) & (position < length)
        original = tl.load(source + position * step, is_used, -1)
        tl.store(replaced + position, token, is_used)
        tl.store(is_replaced + position, token != original, is_used)


def replace_tokens(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Launch `replace_rows`.

    Args:
        input_ids: [B, T] int64, any strides.
        positions: [B, K] int64; a slot whose position is out of range is skipped.
        tokens: [B, K] int64; a negative token keeps the original id.

    Returns:
        The ids with the tokens in their places [B, T] int64, and whether they differ from the original [B, T] bool.
    """
    replaced = torch.empty(input_ids.shape, dtype=torch.int64, device=input_ids.device)
    is_replaced = torch.empty(input_ids.shape, dtype=torch.bool, device=input_ids.device)
    batch, length = input_ids.shape
    if replaced.numel() > 0:
        launch.run(
            replace_rows,
            batch,
            *(input_ids, positions.contiguous(), tokens.contiguous(), replaced, is_replaced),
            *(*input_ids.stride(), length, positions.shape[1]),
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
    """Draw a token for every slot whose target is not negative, then `replace_tokens`.

    Args:
        logits: [B, K, V], float32, bfloat16 or float16, any strides.
        input_ids: [B, T] int64, any strides.
        positions: [B, K] int64.
        targets: [B, K] int64; negative for an empty slot.
        uniforms: [B, K] float64 in [0, 1).
        temperature: the draw is from softmax(logits / temperature).
        ban_original: whether a slot's target is never drawn.
    """
    tokens = draw_tokens(logits, targets, uniforms, temperature, bans=ban_original, skips=True)
    return replace_tokens(input_ids, positions, tokens)
