"""Shuffled-word detection: some words of a row have changed places; which tokens are not where they were."""

import torch
from torch import Tensor

from electra_kernels import mask_tokens, replace_tokens
from electra_kernels.models import ElectraConfig
from electra_kernels.training.objectives.base import TextFacts, TokenBatch
from electra_kernels.training.objectives.detection import CorruptedBatch, TokenDetection


class ShuffledWords(TokenDetection):
    """15 % of the words of every row change places among themselves.

    Only words of a single piece move: a "##" continuation, and the piece that it continues, stay. A piece moved
    alone would be found by its spelling, and a longer word moved whole would push what stands between out of place.
    The picked words go round in a circle, each to the place of the next, so that none stays by chance; a place that
    gets the word that it had is labelled original. A row of fewer than 10 such words has a single one picked, and
    stays as it was.
    """

    name = "shuffled_words"
    detects = "which words stand where they do not belong"
    cannot_detect = "a wrong word that fits its place; words that the row does not have"
    is_continuation: Tensor

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        flags = torch.zeros(len(text.counts), dtype=torch.bool).index_fill(0, text.continuations, True)
        self.register_buffer("is_continuation", flags, persistent=False)

    def batch(self, tokens: TokenBatch) -> CorruptedBatch:
        continues = self.is_continuation[tokens.input_ids]
        slots = mask_tokens(
            tokens.input_ids,
            tokens.maskable & ~continues & ~continues.roll(-1, 1),
            mask_token_id=0,
            vocab_size=len(self.is_continuation),
            mask_fraction=0.0,
        )
        # The slots of a row are in random order, so the one before is any other.
        used = slots.targets >= 0
        before = (torch.arange(used.shape[1], device=used.device) - 1) % used.sum(-1, keepdim=True).clamp(
            min=1
        )
        words = slots.targets.gather(1, before).where(used, -1)
        return CorruptedBatch(replace_tokens(tokens.input_ids, slots.positions, words), tokens.attention_mask)
