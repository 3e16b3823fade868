"""Where the sentences of a row begin, as `sentence_order` and `next_sentence` cut it."""

import torch
from torch import Tensor


def text_lengths(attention_mask: Tensor) -> Tensor:
    """[B], tokens of text in rows [CLS] text [SEP] padding."""
    return attention_mask.sum(-1) - 2


def sentence_starts(input_ids: Tensor, attention_mask: Tensor, sentence_ends: Tensor) -> Tensor:
    """[B, T] bool: the first tokens of all sentences of a row but its first.

    A sentence ends after a piece of ``sentence_ends`` [S] or the last of several that follow one another ("?!").
    What a row begins or ends with may be the rest or the beginning of one. The row knows no more than its pieces: a
    stop in "e.g." or in a number ends a sentence too.
    """
    ends = torch.isin(input_ids, sentence_ends)
    place = torch.arange(input_ids.shape[1], device=input_ids.device)
    inside = (place >= 2) & (place <= text_lengths(attention_mask)[:, None])
    return ends.roll(1, 1) & ~ends & inside
