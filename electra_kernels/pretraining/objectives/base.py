"""The shape of an objective: makes a batch, computes a loss, names its metrics."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from electra_kernels.pretraining.rows import Rows


class TokenBatch(NamedTuple):
    """``input_ids`` [B, T] int64, ``attention_mask`` and ``maskable`` [B, T] bool."""

    input_ids: Tensor
    attention_mask: Tensor
    maskable: Tensor


class Objective(nn.Module):
    """A model together with what it is asked.

    Random numbers come from torch's global generator, which the run seeds.

    Attributes:
        metrics: names of what `forward` reports besides the loss.
    """

    metrics: tuple[str, ...] = ()

    def batch(self, tokens: TokenBatch) -> Any:
        """The batch as `forward` takes it, by default as it is."""
        return tokens

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [] and the metrics, 0-dim tensors; ``progress`` in [0, 1] says how much of the run is over."""
        raise NotImplementedError


def take(rows: Rows, index: Tensor, device: torch.device) -> TokenBatch:
    """The rows of ``index`` [B], on ``device``."""
    parts = (rows.input_ids, rows.attention_mask, rows.maskable)
    return TokenBatch(*(part[index].to(device, non_blocking=True) for part in parts))
