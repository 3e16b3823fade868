"""The matrices of the linear head's GEMMs: hidden states and weight, and the bias as columns where a GPU adds it.

A row of float32 bias is twice as long as one of half-precision logits, and the row kernels of a GPU would read it from
the cache for every row. As columns of the GEMMs it costs a tile of their shortest side, and its gradient is a column of
the weight's. On a CPU it costs less than the copy of the weight that the columns need.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from electra_kernels.reference.common import accumulation_dtype


class Operands(NamedTuple):
    """The matrices that the GEMMs of a call multiply, whose product is the logits.

    Attributes:
        rows: hidden [N, E] with zeros in ignored rows, which must add nothing to the weight's gradient even if NaN. If
            the bias is part of the GEMMs, ones follow, up to P columns.
        projection: weight [V, E] in the dtype of rows; or [V, P] with the bias, high and low part, and zeros behind it.
        bias: the argument ``bias`` of row kernels that have one, and nothing for the others.
        width: E.
    """

    rows: Tensor
    projection: Tensor
    bias: tuple[Tensor | None, ...]
    width: int

    @property
    def has_bias(self) -> bool:
        """Whether the bias is part of the GEMMs."""
        return self.projection.shape[1] > self.width


def operands_of(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, counted: Tensor, *, adds_bias: bool
) -> Operands:
    """What the GEMMs multiply.

    Args:
        hidden, weight, bias: [..., E], [V, E], [V] or None.
        counted: [N] bool, the rows that are not ignored.
        adds_bias: whether the row kernels add the bias.
    """
    width, states = weight.shape[1], hidden.reshape(-1, weight.shape[1])
    zero = hidden.new_zeros(())
    if adds_bias or bias is None:
        rows = torch.where(counted[:, None], states, zero)
        if bias is not None:
            bias = bias.to(accumulation_dtype(hidden.dtype)).contiguous()
        return Operands(rows, weight.to(hidden.dtype), (bias,) if adds_bias else (), width)
    rows = hidden.new_ones(states.shape[0], _padded(width))
    torch.where(counted[:, None], states, zero, out=rows[:, :width])
    return Operands(rows, _with_bias(weight, bias, hidden.dtype), (), width)


def _padded(width: int) -> int:
    """P: E and two columns for the bias, in a pitch of whole 16 bytes in any dtype."""
    return (width + 2 + 7) // 8 * 8


def _with_bias(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """[V, P] = weight, high, low, zeros: high is the bias rounded to half precision, low the rest of it.

    float32 needs both parts as well: TF32 has the digits of one.
    """
    width = weight.shape[1]
    projection = weight.new_zeros(weight.shape[0], _padded(width), dtype=dtype)
    high, low = projection[:, width], projection[:, width + 1]
    projection[:, :width] = weight
    high.copy_(bias if dtype.itemsize == 2 else bias.bfloat16())
    # Nothing is left of a bias whose high part is infinite: it bans its token, or is beyond the dtype.
    torch.sub(bias, high, out=low).nan_to_num_(0, 0, 0)
    return projection


def parameter_columns(width: int, needs: Sequence[bool]) -> slice:
    """Columns of [weight, bias, padding], [V, P], whose gradients are needed. The bias has column E."""
    return slice(0 if needs[1] else width, _padded(width) if needs[2] else width)


def parameter_size(vocab_size: int, width: int, needs: Sequence[bool]) -> int:
    """Elements of the gradient of the `parameter_columns`."""
    columns = parameter_columns(width, needs)
    return vocab_size * (columns.stop - columns.start)


def split_parameters(
    parameters: Tensor, weight: Tensor, needs: Sequence[bool], *, adds_bias: bool
) -> tuple[Tensor, Tensor]:
    """Views of the gradient of the `parameter_columns` [V x columns]: of weight [V, E or 0], of bias [V, 1 or 0].

    If the bias is part of the GEMMs, the memory is that of the columns. Otherwise the bias follows the weight.
    """
    vocab_size, width = weight.shape
    columns, has_bias = parameter_columns(width, needs), int(needs[2])
    width -= columns.start
    if not adds_bias:
        matrix = parameters.view(vocab_size, columns.stop - columns.start)
        return matrix[:, :width], matrix[:, width : width + has_bias]
    weight = parameters[: vocab_size * width].view(vocab_size, width)
    bias = parameters[vocab_size * width : vocab_size * (width + has_bias)]
    return weight, bias.view(vocab_size, has_bias)
