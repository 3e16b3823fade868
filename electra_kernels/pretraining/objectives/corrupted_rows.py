"""One label per row: was anything in it replaced? The contrast to `corrupted_tokens`: only the label differs."""

from torch import Tensor

from electra_kernels import masked_bce_with_logits
from electra_kernels.pretraining.objectives.corrupted import Corrupted, CorruptedBatch


class CorruptedRows(Corrupted):
    """One question per row, answered at its first token, ``[CLS]``, by the module of `CorruptedTokens`."""

    metrics = ("row_loss",)

    def forward(self, batch: CorruptedBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.row_scores(batch.replaced.input_ids, batch.attention_mask)
        loss = masked_bce_with_logits(logits, batch.replaced.is_replaced.any(-1))
        return loss, {"row_loss": loss.detach()}

    def row_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B], higher where the row looks corrupted."""
        return self.model.logits(input_ids, attention_mask)[:, 0]
