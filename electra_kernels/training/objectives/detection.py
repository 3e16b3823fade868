"""Objectives that ask "is this the original?" of every token or of every row, with the same module."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from electra_kernels import ReplacedTokens, TokenLoss, masked_bce_with_logits
from electra_kernels.data.facts import TextFacts
from electra_kernels.models import Discriminator, ElectraConfig, Encoder
from electra_kernels.training.objectives.base import Objective


class CorruptedBatch(NamedTuple):
    """``replaced.input_ids`` [B, T] int64, ``replaced.is_replaced`` and ``attention_mask`` [B, T] bool."""

    replaced: ReplacedTokens
    attention_mask: Tensor


class LabelledRows(NamedTuple):
    """``input_ids`` [B, T] int64, ``attention_mask`` [B, T] bool, ``labels`` and ``has_label`` [B] bool."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    has_label: Tensor


def detection_metrics(rtd: TokenLoss) -> dict[str, Tensor]:
    """``rtd_loss``; ``recall`` at probability 0.5; ``replaced``, the share of the classified tokens."""
    true_positives, _, false_negatives, _ = rtd.counts
    replaced = true_positives + false_negatives
    return {
        "rtd_loss": rtd.loss.detach(),
        "recall": true_positives / replaced.clamp(min=1),
        "replaced": replaced / rtd.counts.sum().clamp(min=1),
    }


class TokenDetection(Objective):
    """Classifies every token as original or replaced. The `batch` of a subclass returns a `CorruptedBatch`."""

    per = "token"
    labels = "every token"
    metrics = ("rtd_loss", "recall", "replaced")
    model: Discriminator

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.model = Discriminator(Encoder(config.discriminator))

    def forward(self, batch: CorruptedBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        rtd = self.model(batch.replaced, batch.attention_mask)
        return rtd.loss, detection_metrics(rtd)

    def token_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T], higher where a token looks replaced."""
        return self.model.logits(input_ids, attention_mask)

    def row_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B], higher where any token looks replaced: the log-sum-exp of the row's token logits."""
        logits = self.token_scores(input_ids, attention_mask)
        return logits.masked_fill(~attention_mask, -torch.inf).logsumexp(-1)


class RowDetection(Objective):
    """Classifies every row as original or changed, at its first token, ``[CLS]``, with the module of `TokenDetection`.

    The `batch` of a subclass returns `LabelledRows`.
    """

    per = "row"
    labels = "1"
    metrics = ("row_loss", "row_accuracy", "labelled")
    model: Discriminator

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.model = Discriminator(Encoder(config.discriminator))

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch)

    def loss(self, rows: LabelledRows) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss [] of the rows that have a label, and the metrics."""
        logits = self.row_scores(rows.input_ids, rows.attention_mask)
        loss = masked_bce_with_logits(logits, rows.labels, rows.has_label)
        right = ((logits > 0) == rows.labels) & rows.has_label
        return loss, {
            "row_loss": loss.detach(),
            "row_accuracy": right.sum() / rows.has_label.sum().clamp(min=1),
            "labelled": rows.has_label.float().mean(),
        }

    def row_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B], higher where a row looks changed."""
        return self.model.logits(input_ids, attention_mask)[:, 0]
