"""Next-sentence prediction (Devlin et al. 2019, section 3.1): does the second part of a row follow its first?"""

import torch
from torch import Tensor

from electra_kernels.data.vocabulary import SpecialIds
from electra_kernels.models import ElectraConfig
from electra_kernels.training.objectives.base import TextFacts, TokenBatch
from electra_kernels.training.objectives.detection import LabelledRows, RowDetection
from electra_kernels.training.objectives.sentences import sentence_starts, text_lengths


class NextSentence(RowDetection):
    """[CLS] first part [SEP] second part [SEP]; with probability 0.5 the second part is from another document.

    A row is cut at the sentence boundary next to its middle; the label is true where the second part is foreign. It
    comes from a random row of the batch that is of another document and has a boundary as well. Both parts keep
    their places in their rows, and whatever the label, the second is cut to the shorter of the row's own and the
    candidate's, so that no length tells one from the other. A row without a boundary, or without a candidate, stays
    as it is and has no label. Segment embeddings are left out: no other objective trains them.
    """

    name = "next_sentence"
    detects = "whether two passages belong together"
    cannot_detect = "anything about a single word; topic alone solves most of it"
    sentence_ends: Tensor

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.special_ids = text.special_ids
        self.register_buffer("sentence_ends", text.sentence_ends, persistent=False)

    def batch(self, tokens: TokenBatch) -> LabelledRows:
        ids, attention_mask = tokens.input_ids, tokens.attention_mask
        lengths = text_lengths(attention_mask)
        first = _first_part(sentence_starts(ids, attention_mask, self.sentence_ends), lengths)
        candidate, has_candidate = _candidates(tokens.document, first > 0)
        is_foreign = torch.rand(first.shape, device=ids.device) < 0.5
        source = candidate.where(is_foreign, torch.arange(len(first), device=ids.device))
        second = torch.minimum(lengths - first, (lengths - first)[candidate])
        second = second.clamp(max=ids.shape[1] - 3 - first)  # room for the further [SEP]
        has_label = (first > 0) & has_candidate & (second > 0)
        joined, joined_mask = _join(ids, first, source, second, self.special_ids)
        return LabelledRows(
            joined.where(has_label[:, None], ids),
            joined_mask.where(has_label[:, None], attention_mask),
            is_foreign & has_label,
            has_label,
        )


def _first_part(starts: Tensor, lengths: Tensor) -> Tensor:
    """[B], tokens of text before the sentence that begins next to the middle of a row; 0 where none begins."""
    before = torch.arange(starts.shape[1], device=starts.device) - 1
    distance = (2 * before - lengths[:, None]).abs().masked_fill(~starts, 2 * starts.shape[1])
    return before[distance.argmin(-1)].where(starts.any(-1), 0)


def _candidates(document: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """A random usable row of another document for each row: its index [B], and whether there is one [B]."""
    allowed = (document[:, None] != document) & usable
    chance = torch.rand(allowed.shape, device=document.device).masked_fill(~allowed, -1.0)
    best, index = chance.max(-1)
    return index, best >= 0


def _join(
    ids: Tensor, first: Tensor, source: Tensor, second: Tensor, special_ids: SpecialIds
) -> tuple[Tensor, Tensor]:
    """``first`` tokens of each row and ``second`` of the second part of row ``source``, with their special tokens."""
    place = torch.arange(ids.shape[1], device=ids.device)
    separator = first[:, None] + 1
    end = separator + second[:, None] + 1
    column = (
        first[source][:, None] + place - separator
    )  # the second part of the source begins at its first + 1
    following = ids[source].gather(1, column.clamp(0, ids.shape[1] - 1))
    joined = ids.where(place < separator, following)
    joined = joined.masked_fill((place == separator) | (place == end), special_ids.sep)
    return joined.masked_fill(place > end, special_ids.pad), place <= end
