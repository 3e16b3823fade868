"""Objectives with one label per row, about its sentences: their order, and whether its two parts belong together."""

import torch
from torch import Tensor

from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.facts import TextFacts
from electra_kernels.data.vocabulary import SpecialIds
from electra_kernels.models import ElectraConfig
from electra_kernels.training.objectives.detection import LabelledRows, RowDetection
from electra_kernels.training.objectives.draws import row_draws


class SentenceOrder(RowDetection):
    """The sentences of a row are shuffled with probability 0.5.

    The label says whether the row has changed: a shuffle that leaves it as it was (every second one of two sentences
    does) is labelled so. A row of one sentence has no label. The ends of a row count as sentences although they may be
    parts of one, because few rows hold several whole sentences. So the position of an unfinished sentence gives some
    labels away.
    """

    name = "sentence_order"
    detects = "broken order of otherwise intact sentences"
    cannot_detect = "a wrong word inside a sentence"
    sentence_ends: Tensor

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.register_buffer("sentence_ends", text.sentence_ends, persistent=False)

    def batch(self, tokens: TokenBatch, seed: int) -> LabelledRows:
        self.require_single_pieces(tokens)
        ids, attention_mask = tokens.input_ids, tokens.attention_mask
        length = ids.shape[1]
        column = torch.arange(length, device=ids.device)
        starts = sentence_starts(ids, attention_mask, self.sentence_ends)
        sentence = starts.cumsum(-1)
        # Each sentence has one key. A stable sort by the keys moves whole sentences, between [CLS] and [SEP].
        shuffled = row_draws(tokens.numbers, "shuffled rows", seed, 1) < 0.5
        keys = row_draws(tokens.numbers, "order", seed, length).where(shuffled, column / length)
        key = keys.gather(1, sentence).masked_fill(column == 0, -1.0)
        key = key.masked_fill(column > text_lengths(attention_mask)[:, None], 2.0)
        reordered = ids.gather(1, key.argsort(dim=-1, stable=True))
        return LabelledRows(reordered, attention_mask, (reordered != ids).any(-1), starts.any(-1))


class NextSentence(RowDetection):
    """[CLS] first part [SEP] second part [SEP]; with probability 0.5 the second part is from another document.

    Next-sentence prediction (Devlin et al. 2019, section 3.1). A row is cut at the sentence boundary nearest to its
    middle; the label is true where the second part is foreign. A foreign part comes from a random row of the batch
    that is of another document and has a boundary too. Both parts keep their positions in their rows. Whatever the
    label, the second part is cut to the shorter of the row's own and the candidate's, so that the length does not
    give the label away. A row without a boundary, or without a candidate, stays as it is and has no label. There are
    no segment embeddings, because no other objective trains them.

    This is the one objective whose samples depend on how a step is cut: candidates are the rows of the same
    micro-batch, so a run with other ranks or micro-batches sees other foreign parts.
    """

    name = "next_sentence"
    detects = "whether two passages belong together"
    cannot_detect = "anything about a single word; topic alone solves most of it"
    sentence_ends: Tensor

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.special_ids = text.special_ids
        self.register_buffer("sentence_ends", text.sentence_ends, persistent=False)

    def batch(self, tokens: TokenBatch, seed: int) -> LabelledRows:
        self.require_single_pieces(tokens)
        ids, attention_mask = tokens.input_ids, tokens.attention_mask
        lengths = text_lengths(attention_mask)
        first = _first_part(sentence_starts(ids, attention_mask, self.sentence_ends), lengths)
        candidate, has_candidate = _candidates(tokens, first > 0, seed)
        is_foreign = row_draws(tokens.numbers, "foreign rows", seed) < 0.5
        source = candidate.where(is_foreign, torch.arange(len(first), device=ids.device))
        second = torch.minimum(lengths - first, (lengths - first)[candidate])
        second = second.clamp(max=ids.shape[1] - 3 - first)  # room for the additional [SEP]
        has_label = (first > 0) & has_candidate & (second > 0)
        joined, joined_mask = _join(ids, first, source, second, self.special_ids)
        return LabelledRows(
            joined.where(has_label[:, None], ids),
            joined_mask.where(has_label[:, None], attention_mask),
            is_foreign & has_label,
            has_label,
        )


def text_lengths(attention_mask: Tensor) -> Tensor:
    """[B], the number of tokens of text in rows [CLS] text [SEP] padding."""
    return attention_mask.sum(-1) - 2


def sentence_starts(input_ids: Tensor, attention_mask: Tensor, sentence_ends: Tensor) -> Tensor:
    """[B, T] bool, true at the first token of every sentence of a row except the first.

    A sentence ends after a piece of ``sentence_ends`` [S], or after the last one of several in a row ("?!"). The row
    may begin or end in the middle of a sentence. Only the pieces decide: a stop in "e.g." or in a number ends a
    sentence too.
    """
    ends = torch.isin(input_ids, sentence_ends)
    column = torch.arange(input_ids.shape[1], device=input_ids.device)
    inside = (column >= 2) & (column <= text_lengths(attention_mask)[:, None])
    return ends.roll(1, 1) & ~ends & inside


def _first_part(starts: Tensor, lengths: Tensor) -> Tensor:
    """[B], tokens of text before the sentence that begins nearest to the middle of a row; 0 where none begins."""
    before = torch.arange(starts.shape[1], device=starts.device) - 1
    distance = (2 * before - lengths[:, None]).abs().masked_fill(~starts, 2 * starts.shape[1])
    return before[distance.argmin(-1)].where(starts.any(-1), 0)


def _candidates(tokens: TokenBatch, usable: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A random usable row of another document for each row: its index [B], and whether there is one [B]."""
    allowed = (tokens.document[:, None] != tokens.document) & usable
    chance = row_draws(tokens.numbers, "candidates", seed, len(usable)).masked_fill(~allowed, -1.0)
    best, index = chance.max(-1)
    return index, best >= 0


def _join(
    ids: Tensor, first: Tensor, source: Tensor, second: Tensor, special_ids: SpecialIds
) -> tuple[Tensor, Tensor]:
    """Rows of ``first`` tokens of their own and ``second`` tokens of the second part of row ``source``.

    Args:
        ids: [B, T].
        first, source, second: [B].

    Returns:
        ids [B, T] with all special tokens, and their attention mask [B, T].
    """
    column = torch.arange(ids.shape[1], device=ids.device)
    separator = first[:, None] + 1
    end = separator + second[:, None] + 1
    # The second part of a source row begins at column first[source] + 1.
    source_column = first[source][:, None] + column - separator
    following = ids[source].gather(1, source_column.clamp(0, ids.shape[1] - 1))
    joined = ids.where(column < separator, following)
    joined = joined.masked_fill((column == separator) | (column == end), special_ids.sep)
    return joined.masked_fill(column > end, special_ids.pad), column <= end
