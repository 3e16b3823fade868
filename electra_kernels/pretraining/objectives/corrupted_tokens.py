"""One label per token: which tokens of a row were replaced by draws from the word frequencies."""

from typing import NamedTuple

import torch
from torch import Tensor

from electra_kernels import ReplacedTokens
from electra_kernels.models import Discriminator
from electra_kernels.models.unigram import Unigram
from electra_kernels.pretraining.corruption import corrupt
from electra_kernels.pretraining.objectives.base import Objective, TokenBatch


class CorruptedBatch(NamedTuple):
    """``replaced.input_ids`` [B, T] int64, ``replaced.is_replaced`` and ``attention_mask`` [B, T] bool."""

    replaced: ReplacedTokens
    attention_mask: Tensor


class CorruptedTokens(Objective):
    """Half of the rows have 15 % of their tokens replaced; every token is asked whether it was.

    Args:
        model: encoder and per-token head.
        unigram: the distribution of the replacements.
    """

    metrics = ("rtd_loss",)

    def __init__(self, model: Discriminator, unigram: Unigram) -> None:
        super().__init__()
        self.model, self.unigram = model, unigram

    def batch(self, tokens: TokenBatch) -> CorruptedBatch:
        return corrupt_half(tokens, self.unigram)

    def forward(self, batch: CorruptedBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        rtd = self.model(batch.replaced, batch.attention_mask)
        return rtd.loss, {"rtd_loss": rtd.loss.detach()}

    def token_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T], higher where a token looks replaced."""
        return self.model.logits(input_ids, attention_mask)

    def row_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B], higher where any token looks replaced: the log-sum-exp of the row's token logits."""
        logits = self.token_scores(input_ids, attention_mask)
        return logits.masked_fill(~attention_mask, -torch.inf).logsumexp(-1)


def corrupt_half(tokens: TokenBatch, unigram: Unigram) -> CorruptedBatch:
    replaced = corrupt(tokens.input_ids, tokens.maskable, unigram, share_of_rows=0.5)
    return CorruptedBatch(replaced, tokens.attention_mask)
