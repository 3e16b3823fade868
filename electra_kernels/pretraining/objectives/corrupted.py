"""The rows that `corrupted_tokens` and `corrupted_rows` share: half of them corrupted by word frequency."""

from typing import NamedTuple

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


class Corrupted(Objective):
    """Half of the rows have 15 % of their tokens replaced; what is asked about them is the subclass's.

    Args:
        model: encoder and per-token head.
        unigram: the distribution of the replacements.
    """

    def __init__(self, model: Discriminator, unigram: Unigram) -> None:
        super().__init__()
        self.model, self.unigram = model, unigram

    def batch(self, tokens: TokenBatch) -> CorruptedBatch:
        replaced = corrupt(tokens.input_ids, tokens.maskable, self.unigram, share_of_rows=0.5)
        return CorruptedBatch(replaced, tokens.attention_mask)
