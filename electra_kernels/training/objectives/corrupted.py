"""Objectives that find a random corruption, without a generator: replaced or shuffled words."""

import torch
from torch import Tensor

from electra_kernels import ReplacedTokens, draw_uniforms, mask_tokens, replace_tokens
from electra_kernels.data.facts import TextFacts
from electra_kernels.models import ElectraConfig
from electra_kernels.models.unigram import Unigram
from electra_kernels.training.objectives.base import TokenBatch
from electra_kernels.training.objectives.detection import (
    CorruptedBatch,
    LabelledRows,
    RowDetection,
    TokenDetection,
)


def corrupt(
    input_ids: Tensor,
    maskable: Tensor,
    unigram: Unigram,
    *,
    probability: float = 0.15,
    share_of_rows: float = 1.0,
) -> ReplacedTokens:
    """Replace a share of the tokens of each picked row by draws from the word frequencies.

    A draw that equals the original is labelled original. The random numbers come from torch's global generator.

    Args:
        input_ids, maskable: [B, T].
        unigram: the distribution of the replacements.
        probability: share of the maskable tokens that is replaced, exactly, in each picked row.
        share_of_rows: probability with which a row is picked.
    """
    vocab_size = unigram.cumulative.shape[0]
    slots = mask_tokens(
        input_ids,
        maskable,
        mask_token_id=0,
        vocab_size=vocab_size,
        probability=probability,
        mask_fraction=0.0,
    )
    picked = draw_uniforms(slots.targets.shape[:1], device=input_ids.device) < share_of_rows
    targets = slots.targets.where(picked[:, None], -100)
    tokens = unigram(targets, uniforms=draw_uniforms(targets.shape, device=targets.device))
    return replace_tokens(input_ids, slots.positions, tokens)


def corrupt_half(tokens: TokenBatch, unigram: Unigram) -> CorruptedBatch:
    """The batch of `CorruptedTokens` and `CorruptedRows`: each row is corrupted with probability 0.5."""
    replaced = corrupt(tokens.input_ids, tokens.maskable, unigram, share_of_rows=0.5)
    return CorruptedBatch(replaced, tokens.attention_mask)


class CorruptedTokens(TokenDetection):
    """One label per token: was it replaced? Half of the rows have 15 % of their tokens replaced, see `corrupt`."""

    name = "corrupted_tokens"
    detects = "which words are out of place"
    cannot_detect = "which word would be right; replacements more plausible than a random word"

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.unigram = Unigram(text.counts)

    def batch(self, tokens: TokenBatch) -> CorruptedBatch:
        return corrupt_half(tokens, self.unigram)


class CorruptedRows(RowDetection):
    """One label per row: was any token of it replaced? Same batches as `CorruptedTokens`; only the label differs."""

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


class ShuffledWords(TokenDetection):
    """Finds the 15 % of the words of every row that have changed places among themselves.

    Only words of a single piece move: a "##" continuation, and the piece that it continues, stay. A piece moved
    alone would be found by its spelling, and a longer word moved whole would shift the words in between. The picked
    words rotate, each to the position of the next one, so that none stays by chance. A position that gets the word
    that it had is labelled original. In a row with fewer than 10 such words only one is picked, and the row stays as
    it was.
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
        # The slots of a row are in random order, so the previous slot is a random other word.
        used = slots.targets >= 0
        count = used.sum(-1, keepdim=True).clamp(min=1)
        previous = (torch.arange(used.shape[1], device=used.device) - 1) % count
        words = slots.targets.gather(1, previous).where(used, -1)
        return CorruptedBatch(replace_tokens(tokens.input_ids, slots.positions, words), tokens.attention_mask)
