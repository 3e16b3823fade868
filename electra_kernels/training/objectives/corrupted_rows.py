"""One label per row: was anything in it replaced? The contrast to `corrupted_tokens`: only the label differs."""

from torch import Tensor

from electra_kernels.models import ElectraConfig
from electra_kernels.models.unigram import Unigram
from electra_kernels.training.objectives.base import TextFacts, TokenBatch
from electra_kernels.training.objectives.corrupted_tokens import corrupt_half
from electra_kernels.training.objectives.detection import CorruptedBatch, LabelledRows, RowDetection


class CorruptedRows(RowDetection):
    """Half of the rows have 15 % of their tokens replaced: the batches of `CorruptedTokens`."""

    name = "corrupted_rows"
    detects = "that something is wrong"
    cannot_detect = "where; each error's evidence is diluted over the row"

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.unigram = Unigram(text.counts)

    def batch(self, tokens: TokenBatch) -> CorruptedBatch:
        return corrupt_half(tokens, self.unigram)

    def forward(self, batch: CorruptedBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        labels = batch.replaced.is_replaced.any(-1)
        rows = LabelledRows(
            batch.replaced.input_ids, batch.attention_mask, labels, labels.new_ones(labels.shape)
        )
        return self.loss(rows)
