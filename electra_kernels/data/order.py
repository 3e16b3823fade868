"""The order of rows in a run: a function of the seed and the number of the row, without a stored permutation.

A Feistel network permutes the cells of a grid that is hardly larger than an epoch (the generalised Feistel cipher of
Black and Rogaway 2002). An entry that falls behind the end of the epoch goes through the network again until it falls
inside (their cycle walking), which leaves a permutation of the epoch.
"""

import math

import torch
from torch import Tensor

from electra_kernels.row_uniforms import GOLDEN, splitmix

_ROUNDS = 8  # four make a pseudo-random permutation of a large epoch; the others are for epochs of a few rows
_STREAM = 0x6F72646572  # "order": keeps the keys apart from the uniform numbers of the rows
_HALF = 0xD1342543DE82EF95 - 2**64  # odd; makes different inputs of different half and round


def row_indices(numbers: Tensor, count: int, seed: int) -> Tensor:
    """The rows that stand at some places of a run of many epochs.

    Number n of the run is entry ``n % count`` of epoch ``n // count``. Every epoch is a permutation of all rows, which
    depends on the seed and the epoch alone. Memory is that of ``numbers``, whatever the count.

    Args:
        numbers: [B] int64, at least 0.
        count: rows of an epoch, from 1 to 2**62.
        seed: any int64.

    Returns:
        [B] int64, each from 0 to count - 1.

    Raises:
        ValueError: count is out of range.
    """
    if not 1 <= count <= 2**62:
        raise ValueError(f"count: {count} should be from 1 to 2**62")
    width = math.isqrt(count - 1) + 1
    grid = (-(-count // width), width)
    epochs, entries = numbers // count, numbers % count
    keys = splitmix(splitmix(torch.full_like(numbers, seed) * GOLDEN + _STREAM) + epochs * GOLDEN)
    entries = _permute(entries, keys, *grid)
    while len(outside := (entries >= count).nonzero()[:, 0]):
        entries[outside] = _permute(entries[outside], keys[outside], *grid)
    return entries


def _permute(entries: Tensor, keys: Tensor, rows: int, columns: int) -> Tensor:
    """A permutation of the cells of a grid, chosen by the key of each entry."""
    row, column = entries // columns, entries % columns
    for step in range(_ROUNDS):
        keys = keys + GOLDEN
        if step % 2:
            row = (row + _hash(column, keys)) % rows
        else:
            column = (column + _hash(row, keys)) % columns
    return row * columns + column


def _hash(half: Tensor, keys: Tensor) -> Tensor:
    """62 bits, so that adding half an entry does not overflow."""
    return splitmix(half * _HALF + keys) & (2**62 - 1)
