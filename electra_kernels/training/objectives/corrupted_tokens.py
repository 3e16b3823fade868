"""One label per token: which tokens of a row were replaced by draws from the word frequencies."""

from electra_kernels.evaluation.corruption import corrupt
from electra_kernels.models import ElectraConfig
from electra_kernels.models.unigram import Unigram
from electra_kernels.training.objectives.base import TextFacts, TokenBatch
from electra_kernels.training.objectives.detection import CorruptedBatch, TokenDetection


class CorruptedTokens(TokenDetection):
    """Half of the rows have 15 % of their tokens replaced; every token of all rows is asked whether it was."""

    name = "corrupted_tokens"
    detects = "which words are out of place"
    cannot_detect = "which word would be right; replacements more plausible than a random word"

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.unigram = Unigram(text.counts)

    def batch(self, tokens: TokenBatch) -> CorruptedBatch:
        return corrupt_half(tokens, self.unigram)


def corrupt_half(tokens: TokenBatch, unigram: Unigram) -> CorruptedBatch:
    """Half of the rows corrupted; the batch that `CorruptedTokens` and `CorruptedRows` share."""
    replaced = corrupt(tokens.input_ids, tokens.maskable, unigram, share_of_rows=0.5)
    return CorruptedBatch(replaced, tokens.attention_mask)
