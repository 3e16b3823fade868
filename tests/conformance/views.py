"""Copies of a tensor in other memory layouts, between sentinels that no kernel may read or write."""

from collections.abc import Callable

import torch
from torch import Tensor

MARGIN = 64  # elements on either side


def _sentinel(dtype: torch.dtype) -> float | int | bool:
    if dtype == torch.bool:
        return True
    return float("nan") if dtype.is_floating_point else -(2**62) if dtype == torch.int64 else 99


def _embed(values: Tensor, strides: tuple[int, ...], size: int, offset: int) -> tuple[Tensor, Tensor]:
    memory = torch.full((size + offset + 2 * MARGIN,), _sentinel(values.dtype), dtype=values.dtype)
    memory = memory.to(values.device)
    view = memory.as_strided(values.shape, strides, MARGIN + offset)
    view.copy_(values.detach())
    return view, memory


def _row_major(shape: torch.Size, unit: int, padding: int) -> tuple[tuple[int, ...], int]:
    """Strides and size of a row-major layout with elements ``unit`` apart and ``padding`` elements behind each row."""
    strides, step = [], unit
    for index, size in enumerate(reversed(shape)):
        strides.append(step)
        step = step * size + (padding if index == 0 else 0)
    return tuple(reversed(strides)), step


def shifted(values: Tensor, offset: int = 1) -> tuple[Tensor, Tensor]:
    """Contiguous, but starting ``offset`` elements further in memory, so that vectors are not aligned."""
    return _embed(values, *_row_major(values.shape, 1, 0), offset)


def strided(values: Tensor) -> tuple[Tensor, Tensor]:
    """Every second element, and rows with a padded pitch."""
    return _embed(values, *_row_major(values.shape, 2, 6), 3)


def transposed(values: Tensor) -> tuple[Tensor, Tensor]:
    """The first dimension runs fastest."""
    strides, size = _row_major(values.shape[::-1], 1, 0)
    return _embed(values, strides[::-1], size, 1)


LAYOUTS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "shifted": shifted,
    "strided": strided,
    "transposed": transposed,
}


def untouched(memory: Tensor, view: Tensor) -> bool:
    """Whether every element of the memory outside the view still holds its sentinel."""
    outside = torch.ones_like(memory, dtype=torch.bool)
    outside.as_strided(view.shape, view.stride(), view.storage_offset()).fill_(False)
    sentinel = torch.full_like(memory, _sentinel(memory.dtype))
    return torch.equal(memory[outside].nan_to_num(nan=7.0), sentinel[outside].nan_to_num(nan=7.0))


def as_odd_bytes(flags: Tensor) -> Tensor:
    """The same booleans, with any non-zero byte for True. Torch views other dtypes as bool without normalising them."""
    nonzero = torch.randint(1, 256, flags.shape, dtype=torch.uint8, device=flags.device)
    return (flags.to(torch.uint8) * nonzero).view(torch.bool)
