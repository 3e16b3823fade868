"""A batch of rows, as a source of rows gives it to an objective."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
    """Rows of T tokens with the numbers that identify them in the run.

    Attributes:
        input_ids: [B, T] int64.
        attention_mask: [B, T] bool, False at padding.
        maskable: [B, T] bool, True at tokens of the text: not at padding or special tokens.
        document: [B] int64, the document of the row, or of its first piece.
        numbers: [B] int64, the number of each row in the run, from which its random numbers follow.
        segments: [B, T] int64 if the rows are packed: 1, 2, ... for the pieces of a row in their order, 0 at padding.
            None if every row is one piece.
    """

    input_ids: Tensor
    attention_mask: Tensor
    maskable: Tensor
    document: Tensor
    numbers: Tensor
    segments: Tensor | None = None

    def to(self, device: torch.device) -> "TokenBatch":
        return TokenBatch(
            *(None if part is None else part.to(device, non_blocking=True) for part in self)  # type: ignore[arg-type]
        )

    def pin_memory(self) -> "TokenBatch":
        """A copy in page-locked memory, from which a GPU reads while the CPU goes on."""
        return TokenBatch(*(None if part is None else part.pin_memory() for part in self))  # type: ignore[arg-type]

    def split(self, rows: int) -> list["TokenBatch"]:
        """Consecutive parts of up to ``rows`` rows each."""
        parts = [[None] * -(-len(self.input_ids) // rows) if p is None else p.split(rows) for p in self]
        return [TokenBatch(*fields) for fields in zip(*parts)]


class RowSource(Protocol):
    """Rows of ``length`` tokens, read by their index."""

    @property
    def length(self) -> int: ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, numbers: Tensor) -> TokenBatch:
        """The rows ``index`` [B] on the CPU, with their ``numbers`` [B] in the run."""
        ...
