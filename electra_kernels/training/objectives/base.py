"""The shape of an objective: makes a batch, computes a loss, names its metrics."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from electra_kernels.data.facts import TextFacts, text_facts  # noqa: F401 -- exported by the package
from electra_kernels.data.rows import Rows
from electra_kernels.models import ElectraConfig, Encoder


class TokenBatch(NamedTuple):
    """``input_ids`` [B, T] int64, ``attention_mask`` and ``maskable`` [B, T] bool, ``document`` [B] int64."""

    input_ids: Tensor
    attention_mask: Tensor
    maskable: Tensor
    document: Tensor


class Objective(nn.Module):
    """A model together with what it is asked.

    Random numbers come from torch's global generator, which the run seeds.

    Args:
        config: of the models; the encoder that is trained is that of ``config.discriminator``.
        text: what the objective may know of the text.

    Attributes:
        name: of ``--objective`` and of tables.
        per: "token" or "row", what a label is given to.
        labels: how many labels a row has, in words.
        detects, cannot_detect: what an encoder trained so can and cannot learn to see, in words.
        metrics: names of what `forward` reports besides the loss.
        model: what holds the encoder and its head.
    """

    name: str
    per: str
    labels: str
    detects: str
    cannot_detect: str
    metrics: tuple[str, ...] = ()
    model: nn.Module

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__()
        self.config = config

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained; others may share its embeddings, so copy weights into it, never replace it."""
        encoder = self.model.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    def batch(self, tokens: TokenBatch) -> Any:
        """The batch as `forward` takes it, by default as it is."""
        return tokens

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [] and the metrics, 0-dim tensors; ``progress`` in [0, 1] says how much of the run is over."""
        raise NotImplementedError


def take(rows: Rows, index: Tensor, device: torch.device) -> TokenBatch:
    """The rows of ``index`` [B], on ``device``."""
    parts = (rows.input_ids, rows.attention_mask, rows.maskable, rows.document)
    return TokenBatch(*(part[index].to(device, non_blocking=True) for part in parts))
