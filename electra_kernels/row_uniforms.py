"""Uniform numbers of a row that depend only on the seed and on the number of the row.

The rows of a run are numbered one after the other, over ranks, micro-batches and steps. However a global batch is
cut, each row gets the same numbers, and a resumed run continues with the next ones.

A `torch.Generator` cannot do that. It returns numbers in the order of the requests, so a rank would have to draw those
of all other ranks too, for batches whose widths it never sees. Its state would have to be saved per rank, it differs
between devices, and `torch.compile` cannot trace it. SplitMix64 is a function of the seed, the number of the row and
the number of the draw within the row, so one count of rows is all that has to be saved.

The function is one op, so that a compiler never sees its arithmetic, which wraps around. Inductor folds
``arange(n) * constant`` into an index expression and assumes that no index overflows: the compiled code wrote outside
its buffers.
"""

import torch
from torch import Tensor

# The multipliers of SplitMix64 (Steele, Lea and Flood 2014, section 3; the finaliser is Stafford's variant 13), as
# signed 64-bit numbers. torch's int64 arithmetic wraps around, on every device.
GOLDEN, _FIRST, _SECOND = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


@torch.library.custom_op("electra_kernels::row_uniforms", mutates_args=())
def row_uniforms(rows: Tensor, count: int, seed: int) -> Tensor:
    """``count`` independent uniforms on [0, 1) for each row, with 53 bits; a larger count only appends numbers.

    Args:
        rows: [B] int64, the numbers of the rows.
        count: numbers per row.
        seed: any int64.

    Returns:
        [B, count] float64 on the device of ``rows``, which is not synchronised.
    """
    start = splitmix(splitmix(torch.full_like(rows, seed) * GOLDEN) + rows * GOLDEN)
    steps = torch.arange(1, count + 1, device=rows.device) * GOLDEN
    return _logical_shift(splitmix(start[:, None] + steps), 11).double() * 2.0**-53


@row_uniforms.register_fake
def _(rows: Tensor, count: int, seed: int) -> Tensor:
    return rows.new_empty((rows.shape[0], count), dtype=torch.float64)


def splitmix(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64, a permutation of all int64."""
    bits = (bits ^ _logical_shift(bits, 30)) * _FIRST
    bits = (bits ^ _logical_shift(bits, 27)) * _SECOND
    return bits ^ _logical_shift(bits, 31)


def _logical_shift(bits: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; torch's shift fills a negative number with ones."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
