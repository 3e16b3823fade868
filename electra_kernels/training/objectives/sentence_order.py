"""Sentence order: are the sentences of a row in the order in which they were written?"""

import torch
from torch import Tensor

from electra_kernels.models import ElectraConfig
from electra_kernels.training.objectives.base import TextFacts, TokenBatch
from electra_kernels.training.objectives.detection import LabelledRows, RowDetection
from electra_kernels.training.objectives.sentences import sentence_starts, text_lengths


class SentenceOrder(RowDetection):
    """With probability 0.5 the sentences of a row are shuffled.

    The label says whether the row has changed: a shuffle that leaves it as it was (of two sentences every second
    one does) is labelled so. A row of one sentence has no label. The ends of a row count as sentences although they
    may be parts of one, since few rows hold several whole ones; where an unfinished one stands gives some away.
    """

    name = "sentence_order"
    detects = "broken order of otherwise intact sentences"
    cannot_detect = "a wrong word inside a sentence"
    sentence_ends: Tensor

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.register_buffer("sentence_ends", text.sentence_ends, persistent=False)

    def batch(self, tokens: TokenBatch) -> LabelledRows:
        ids, attention_mask = tokens.input_ids, tokens.attention_mask
        rows, length = ids.shape
        place = torch.arange(length, device=ids.device)
        starts = sentence_starts(ids, attention_mask, self.sentence_ends)
        sentence = starts.cumsum(-1)
        # A sentence has one key; tokens are sorted by it, stably, between [CLS] and [SEP].
        shuffled = torch.rand(rows, 1, device=ids.device) < 0.5
        keys = torch.rand(rows, length, device=ids.device).where(shuffled, place / length)
        key = keys.gather(1, sentence).masked_fill(place == 0, -1.0)
        key = key.masked_fill(place > text_lengths(attention_mask)[:, None], 2.0)
        reordered = ids.gather(1, key.argsort(dim=-1, stable=True))
        return LabelledRows(reordered, attention_mask, (reordered != ids).any(-1), starts.any(-1))
