"""Token counts and special ids of a training text, for objectives that need them."""

from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.vocabulary import CONTINUATION_PREFIX, SpecialIds, special_ids

_SENTENCE_ENDS = (".", "?", "!")


@dataclass(frozen=True)
class TextFacts:
    """Facts about a training text that an objective may use.

    Attributes:
        counts: int64 [V], how often each token occurs in the training text; 0 for special tokens.
        special_ids: ids of the five special tokens.
        sentence_ends: int64, ids of the pieces that end a sentence.
        continuations: int64, ids of the pieces that continue a word (``##ing``); empty if every piece is a word.
    """

    counts: Tensor
    special_ids: SpecialIds
    sentence_ends: Tensor
    continuations: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def text_facts(tokenizer: Tokenizer, counts: Tensor) -> TextFacts:
    """Facts about a WordPiece vocabulary and the text whose tokens were counted with it.

    The pieces ``.``, ``?`` and ``!`` end a sentence.

    Args:
        tokenizer: a WordPiece tokenizer with the five special tokens.
        counts: int64 [V], see `electra_kernels.data.rows.unigram_counts`.

    Raises:
        UserError: the vocabulary lacks a special token.
    """
    vocabulary = tokenizer.get_vocab()
    ends = [vocabulary[piece] for piece in _SENTENCE_ENDS if piece in vocabulary]
    continuations = sorted(i for piece, i in vocabulary.items() if piece.startswith(CONTINUATION_PREFIX))
    ids = [torch.tensor(part, dtype=torch.int64) for part in (ends, continuations)]
    return TextFacts(counts, special_ids(tokenizer), *ids)
