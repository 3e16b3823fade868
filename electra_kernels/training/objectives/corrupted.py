"""Objectives that find a random corruption, without a generator: replaced or shuffled words."""

import torch
from torch import Tensor

from electra_kernels import MaskedTokens, ReplacedTokens, mask_tokens, replace_tokens
from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.facts import TextFacts
from electra_kernels.models import ElectraConfig
from electra_kernels.models.unigram import Unigram
from electra_kernels.ops.masking import default_slots
from electra_kernels.training.objectives.detection import (
    CorruptedBatch,
    LabelledRows,
    RowDetection,
    TokenDetection,
)
from electra_kernels.training.objectives.draws import row_draws


def corrupt(
    tokens: TokenBatch,
    unigram: Unigram,
    seed: int,
    *,
    probability: float = 0.15,
    share_of_rows: float = 1.0,
) -> ReplacedTokens:
    """Replace a share of the tokens of each picked row by draws from the word frequencies.

    A draw that equals the original is labelled original.

    Args:
        tokens: the rows. Their numbers and ``seed`` decide every draw.
        unigram: the distribution of the replacements.
        seed: any int.
        probability: share of the maskable tokens that is replaced, exactly, in each picked row.
        share_of_rows: probability with which a row is picked.
    """
    slots = pick(tokens, tokens.maskable, len(unigram.cumulative), seed, probability)
    picked = row_draws(tokens.numbers, "corrupted rows", seed) < share_of_rows
    targets = slots.targets.where(picked[:, None], -100)
    uniforms = row_draws(tokens.numbers, "replacements", seed, targets.shape[1])
    return replace_tokens(tokens.input_ids, slots.positions, unigram(targets, uniforms=uniforms))


def pick(
    tokens: TokenBatch, among: Tensor, vocab_size: int, seed: int, probability: float = 0.15
) -> MaskedTokens:
    """Pick a share of the tokens ``among`` [B, T] bool of each row, in random order, and leave them as they are."""
    slots = default_slots(tokens.input_ids.shape[1], probability)
    return mask_tokens(
        tokens.input_ids,
        among,
        mask_token_id=0,
        vocab_size=vocab_size,
        probability=probability,
        mask_fraction=0.0,
        uniforms=row_draws(tokens.numbers, "masking", seed, slots, 2),
    )


class CorruptedTokens(TokenDetection):
    """One label per token: was it replaced? Half of the rows have 15 % of their tokens replaced, see `corrupt`."""

    name = "corrupted_tokens"
    detects = "which words are out of place"
    cannot_detect = "which word would be right; replacements more plausible than a random word"

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.unigram = Unigram(text.counts)

    def batch(self, tokens: TokenBatch, seed: int) -> CorruptedBatch:
        replaced = corrupt(tokens, self.unigram, seed, share_of_rows=0.5)
        return CorruptedBatch(replaced, tokens.attention_mask, tokens.segments)


class CorruptedRows(RowDetection):
    """One label per row: was any token of it replaced? Same rows as `CorruptedTokens`; only the label differs."""

    name = "corrupted_rows"
    detects = "that something is wrong"
    cannot_detect = "where; each error's evidence is diluted over the row"

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.unigram = Unigram(text.counts)

    def batch(self, tokens: TokenBatch, seed: int) -> LabelledRows:
        self.require_single_pieces(tokens)
        replaced = corrupt(tokens, self.unigram, seed, share_of_rows=0.5)
        labels = replaced.is_replaced.any(-1)
        return LabelledRows(replaced.input_ids, tokens.attention_mask, labels, torch.ones_like(labels))


class ShuffledWords(TokenDetection):
    """Finds the 15 % of the words of every row that have changed places among themselves.

    Only words of a single piece move: a "##" continuation, and the piece that it continues, stay. A piece moved
    alone would be found by its spelling, and a longer word moved whole would shift the words in between. The picked
    words rotate, each to the position of the next one, so that none stays by chance. A position that gets the word
    that it had is labelled original. In a row with fewer than 10 such words only one is picked, and the row stays as
    it was. A row is one piece of a document: in a packed row words would move between documents, where their topic
    gives them away.
    """

    name = "shuffled_words"
    detects = "which words stand where they do not belong"
    cannot_detect = "a wrong word that fits its place; words that the row does not have"
    packs = False
    is_continuation: Tensor

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        flags = torch.zeros(len(text.counts), dtype=torch.bool).index_fill(0, text.continuations, True)
        self.register_buffer("is_continuation", flags, persistent=False)

    def batch(self, tokens: TokenBatch, seed: int) -> CorruptedBatch:
        self.require_single_pieces(tokens)
        continues = self.is_continuation[tokens.input_ids]
        movable = tokens.maskable & ~continues & ~continues.roll(-1, 1)
        slots = pick(tokens, movable, len(self.is_continuation), seed)
        # The slots of a row are in random order, so the previous slot is a random other word.
        used = slots.targets >= 0
        count = used.sum(-1, keepdim=True).clamp(min=1)
        previous = (torch.arange(used.shape[1], device=used.device) - 1) % count
        words = slots.targets.gather(1, previous).where(used, -1)
        return CorruptedBatch(replace_tokens(tokens.input_ids, slots.positions, words), tokens.attention_mask)
