"""Objectives that ask "is this the original?" of every token or of every row, with the same module."""

from typing import NamedTuple

import torch
from torch import Tensor

from electra_kernels import ReplacedTokens, TokenLoss, masked_bce_with_logits
from electra_kernels.data.facts import TextFacts
from electra_kernels.models import Discriminator, ElectraConfig, Encoder
from electra_kernels.training.objectives.base import Objective, ratio


class CorruptedBatch(NamedTuple):
    """``replaced.input_ids`` [B, T] int64, ``replaced.is_replaced`` and ``attention_mask`` [B, T] bool.

    ``segments`` is that of the `TokenBatch`.
    """

    replaced: ReplacedTokens
    attention_mask: Tensor
    segments: Tensor | None = None


class LabelledRows(NamedTuple):
    """``input_ids`` [B, T] int64, ``attention_mask`` [B, T] bool, ``labels`` and ``has_label`` [B] bool."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    has_label: Tensor


def detection_metrics(rtd: TokenLoss, normalizer: Tensor) -> dict[str, Tensor]:
    """Metrics of the judged tokens, where ``normalizer`` [] is the denominator of ``rtd.loss``.

    ``replaced``: their replaced share. ``rtd_loss``: mean loss. ``recall``: at probability 0.5.
    """
    true_positives, _, false_negatives, _ = rtd.counts
    replaced, judged = true_positives + false_negatives, rtd.counts.sum()
    return {
        "replaced": ratio(replaced, judged),
        "rtd_loss": ratio(rtd.loss.detach() * normalizer, judged),
        "recall": ratio(true_positives, replaced),
    }


class TokenDetection(Objective):
    """Classifies every token as original or replaced. The `batch` of a subclass returns a `CorruptedBatch`."""

    per = "token"
    labels = "every token"
    metrics = ("replaced", "rtd_loss", "recall")
    model: Discriminator

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.model = Discriminator(Encoder(config.discriminator))

    def counts(self, batch: CorruptedBatch) -> Tensor:
        """[1]: all tokens but padding."""
        return batch.attention_mask.sum()[None]

    def forward(
        self, batch: CorruptedBatch, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        (judged,) = self.denominators(batch, counts)
        rtd = self.model(batch.replaced, batch.attention_mask, segments=batch.segments, normalizer=judged)
        return rtd.loss, detection_metrics(rtd, judged)

    def token_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T], higher where a token looks replaced."""
        return self.model.logits(input_ids, attention_mask)

    def row_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B], higher where any token looks replaced: the log-sum-exp of the row's token logits."""
        logits = self.token_scores(input_ids, attention_mask)
        return logits.masked_fill(~attention_mask, -torch.inf).logsumexp(-1)


class RowDetection(Objective):
    """Classifies every row as original or changed, at its first token, ``[CLS]``, with the module of `TokenDetection`.

    A row is one piece of a document: the first ``[CLS]`` of a packed row would see its first piece only. The `batch` of
    a subclass returns `LabelledRows`.
    """

    per = "row"
    labels = "1"
    metrics = ("row_loss", "row_accuracy", "labelled")
    packs = False
    model: Discriminator

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.model = Discriminator(Encoder(config.discriminator))

    def counts(self, batch: LabelledRows) -> Tensor:
        """[1]: rows that have a label."""
        return batch.has_label.sum()[None]

    def forward(
        self, batch: LabelledRows, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        (count,) = self.denominators(batch, counts)
        has_label = batch.has_label
        logits = self.row_scores(batch.input_ids, batch.attention_mask)
        loss = masked_bce_with_logits(logits, batch.labels, has_label, normalizer=count)
        right = ((logits > 0) == batch.labels) & has_label
        return loss, {
            "row_loss": ratio(loss.detach() * count, has_label.sum()),
            "row_accuracy": ratio(right.sum(), has_label.sum()),
            "labelled": ratio(has_label.sum(), torch.ones_like(has_label).sum()),
        }

    def row_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B], higher where a row looks changed."""
        return self.model.logits(input_ids, attention_mask)[:, 0]
