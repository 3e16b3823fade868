"""The interface of an objective: it makes a batch, computes a loss and names its metrics."""

from typing import Any

import torch
from torch import Tensor, nn

from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.facts import TextFacts
from electra_kernels.data.rows import Rows
from electra_kernels.models import ElectraConfig, Encoder


class Objective(nn.Module):
    """A model together with the question that it is trained on.

    Random numbers come from torch's global generator, which `electra_kernels.training.trainer.train` seeds.

    Args:
        config: sizes and options of the models. The trained encoder has the sizes of ``config.discriminator``.
        text: facts about the training text.

    Attributes:
        name: the value of ``--objective``, also used in tables.
        per: "token" or "row": the unit that gets a label.
        labels: how many labels a row has, in words.
        detects, cannot_detect: what an encoder trained this way can and cannot learn to see, in words.
        metrics: names of the metrics that `forward` returns beside the loss.
        model: the module that holds the encoder and its head.
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
        """The trained encoder. Copy weights into it, never replace it: other modules may share its embeddings."""
        encoder = self.model.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    def batch(self, tokens: TokenBatch) -> Any:
        """The input of `forward`, made from a batch of rows; by default the rows themselves."""
        return tokens

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [] and the metrics, 0-dim tensors. ``progress`` in [0, 1] is the finished share of the training."""
        raise NotImplementedError


def token_batch(rows: Rows, index: Tensor, device: torch.device) -> TokenBatch:
    """The rows with the numbers ``index`` [B], on ``device``."""
    return rows.batch(index, index).to(device)
