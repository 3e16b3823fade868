"""Softmax attention of a batch whose rows may be packed: a token attends to the tokens of its own piece.

Packed rows have two implementations. On a GPU in half precision, `torch.nn.attention.varlen` takes the pieces as a list
of sequences and computes no score between two of them. Elsewhere a block-diagonal mask hides those scores. Rows with
one piece need neither, only a mask for their padding.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# FlashAttention's limits: Dao 2024, arXiv 2307.08691, and at::native::mha_varlen_fwd.
_HEAD_SIZE_MULTIPLE, _LARGEST_HEAD_SIZE, _OLDEST_CAPABILITY = 8, 256, (8, 0)


class Layout(NamedTuple):
    """Which tokens of a batch attend to each other. It is computed once for all layers.

    Attributes:
        mask: bool, broadcast to [B, heads, T, T], True where a query attends to a key. None: to every key, or as
            ``offsets`` says.
        offsets: int32 [S + 1], the boundaries of S sequences in the B * T tokens of the batch, for varlen_attn.
            Sequences may be empty, so that S does not depend on the number of pieces.
        reach: the largest distance of two tokens that attend to each other, for varlen_attn; -1: any distance. With
            ``mask`` it is -1, because the mask has it.
    """

    mask: Tensor | None = None
    offsets: Tensor | None = None
    reach: int = -1


def local_layout(layout: Layout, length: int, reach: int, device: torch.device) -> Layout:
    """``layout`` of rows of ``length`` tokens, where tokens more than ``reach`` apart do not attend to each other.

    Every token attends to itself, padding too: a query without any key would give NaN.
    """
    if layout.offsets is not None:
        return layout._replace(reach=reach)
    column = torch.arange(length, device=device)
    distance = (column[:, None] - column).abs()
    near = distance <= reach
    return Layout(near if layout.mask is None else (layout.mask & near) | (distance == 0))


def padded_layout(attention_mask: Tensor | None) -> Layout:
    """The layout of rows with one piece: attention_mask [B, T], nonzero where a token may be attended to."""
    return Layout(None if attention_mask is None else (attention_mask != 0)[:, None, None, :])


def packed_layout(segments: Tensor, max_pieces: int, varlen: bool) -> Layout:
    """The layout of packed rows.

    Args:
        segments: [B, T] integer, equal within a piece and different at neighbouring pieces.
        max_pieces: at least the number of pieces in a row, where padding counts as one; at most T. Only ``varlen``
            uses it: the kernel starts a program for each sequence that there could be.
        varlen: for `varlen_attn`. It has no dropout.
    """
    if not varlen:
        return Layout((segments[:, :, None] == segments[:, None, :])[:, None])
    batch, length = segments.shape
    column = torch.arange(length, device=segments.device)
    # The starts in their order, then T as often as there are pieces missing: those sequences are empty.
    starts = column.where(piece_starts(segments), length).sort(-1).values[:, :max_pieces]
    starts = starts + length * torch.arange(batch, device=segments.device)[:, None]
    return Layout(offsets=F.pad(starts.flatten(), (0, 1), value=batch * length).int())


def piece_starts(segments: Tensor) -> Tensor:
    """Bool [B, T], True at the first token of each piece, and at the first token of the padding."""
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return starts


def positions_in_pieces(segments: Tensor) -> Tensor:
    """Int64 [B, T], the position of each token counted from the start of its piece, 0 at padding (segment 0)."""
    column = torch.arange(segments.shape[1], device=segments.device)
    start = (column * piece_starts(segments)).cummax(-1).values
    return (column - start) * (segments != 0)


@torch.compiler.assume_constant_result
def varlen_is_available(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether `varlen_attn` runs on this device for heads of this dtype and size."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    if head_size % _HEAD_SIZE_MULTIPLE or head_size > _LARGEST_HEAD_SIZE:
        return False
    return (
        torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= _OLDEST_CAPABILITY
    )


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float = 0.0) -> Tensor:
    """Softmax attention, softmax(query key' / sqrt(d)) value, confined as ``layout`` says.

    On a CPU, half precision is computed in float32: for short rows without dropout, torch's gradient in half precision
    takes several times as long there (benchmarks/FINDINGS.md).

    Args:
        query, key, value: [B, T, heads, d] of one dtype.
        layout: from `padded_layout` or `packed_layout`.
        dropout: rate for the attention probabilities; 0 with ``layout.offsets``.

    Returns:
        [B, T, heads, d] in the dtype of ``query``.
    """
    if layout.offsets is not None:
        return _attend_to_sequences(query, key, value, layout.offsets, layout.reach)
    dtype = query.dtype
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    if query.device.type != "cpu" or dtype.itemsize >= 4:
        return F.scaled_dot_product_attention(query, key, value, layout.mask, dropout).transpose(1, 2)
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = query.float(), key.float(), value.float()
        attended = F.scaled_dot_product_attention(query, key, value, layout.mask, dropout)
    return attended.to(dtype).transpose(1, 2)


def _attend_to_sequences(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, reach: int) -> Tensor:
    # The import takes more than a second, which a CPU does not need.
    from torch.nn.attention.varlen import varlen_attn

    shape, length = query.shape[:2], query.shape[1]
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    # T is the longest that a sequence can be. The longest one there is would have to be read from the device.
    attended = varlen_attn(query, key, value, offsets, offsets, length, length, window_size=(reach, reach))
    assert isinstance(attended, Tensor)  # not a pair, because return_aux is not given
    return attended.unflatten(0, shape)
