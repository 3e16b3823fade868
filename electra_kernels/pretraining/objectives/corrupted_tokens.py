"""One label per token: which tokens of a row were replaced by draws from the word frequencies."""

import torch
from torch import Tensor

from electra_kernels.pretraining.objectives.corrupted import Corrupted, CorruptedBatch


class CorruptedTokens(Corrupted):
    """Every token of the corrupted rows is asked whether it was replaced."""

    metrics = ("rtd_loss",)

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
