"""One label per row: was anything in it replaced? The contrast to `corrupted_tokens`: only the label differs."""

from torch import Tensor

from electra_kernels import masked_bce_with_logits
from electra_kernels.models import Discriminator
from electra_kernels.models.unigram import Unigram
from electra_kernels.pretraining.objectives.base import Objective, TokenBatch
from electra_kernels.pretraining.objectives.corrupted_tokens import CorruptedBatch, corrupt_half


class CorruptedRows(Objective):
    """The corrupted rows of `CorruptedTokens`, one question per row, answered at its first token, ``[CLS]``.

    Args:
        model: encoder and head, the same module as that of `CorruptedTokens`.
        unigram: the distribution of the replacements.
    """

    metrics = ("row_loss",)

    def __init__(self, model: Discriminator, unigram: Unigram) -> None:
        super().__init__()
        self.model, self.unigram = model, unigram

    def batch(self, tokens: TokenBatch) -> CorruptedBatch:
        return corrupt_half(tokens, self.unigram)

    def forward(self, batch: CorruptedBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.row_scores(batch.replaced.input_ids, batch.attention_mask)
        loss = masked_bce_with_logits(logits, batch.replaced.is_replaced.any(-1))
        return loss, {"row_loss": loss.detach()}

    def row_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B], higher where the row looks corrupted."""
        return self.model.logits(input_ids, attention_mask)[:, 0]
