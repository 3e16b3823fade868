"""Token counts and special ids of a training text, for objectives that need them."""

from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from electra_kernels.data.vocabulary import SpecialIds, special_ids
from electra_kernels.special_tokens import all_special

_SENTENCE_ENDS = (".", "?", "!")
_WORD_MARKS = ("\u0120", "\u2581", " ")  # Ġ of byte-level BPE, ▁ of SentencePiece


@dataclass(frozen=True)
class TextFacts:
    """Facts about a training text that an objective may use.

    Attributes:
        counts: int64 [V], how often each token occurs in the training text; 0 for special tokens.
        special_ids: ids of the special tokens.
        sentence_ends: int64, ids of the pieces that end a sentence.
        continuations: int64, ids of the pieces that continue a word (``##ing``); empty if every piece is a word.
    """

    counts: Tensor
    special_ids: SpecialIds
    sentence_ends: Tensor
    continuations: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def starts_word(self) -> Tensor:
        """bool [V], whether a token begins a word. Special tokens do.

        WordPiece: the token has no ``##``. Byte-level BPE and SentencePiece: it begins with ``Ġ``, ``▁`` or a blank.
        So with those a punctuation mark without a blank before it belongs to the word before.
        """
        starts = torch.ones(len(self.counts), dtype=torch.bool)
        starts[self.continuations] = False
        return starts


def text_facts(tokenizer: Tokenizer, counts: Tensor) -> TextFacts:
    """Facts about a vocabulary and the text whose tokens were counted with it.

    The pieces ``.``, ``?`` and ``!`` end a sentence, with or without the mark of a new word.

    Args:
        tokenizer: a tokenizer with special tokens, see `electra_kernels.data.vocabulary.load_vocabulary`.
        counts: int64 [V], see `electra_kernels.data.rows.unigram_counts`.

    Raises:
        UserError: the vocabulary lacks a special token.
    """
    vocabulary = tokenizer.get_vocab()
    ends = sorted(
        i for piece, i in vocabulary.items() if piece.lstrip("".join(_WORD_MARKS)) in _SENTENCE_ENDS
    )
    ids = [torch.tensor(part, dtype=torch.int64) for part in (ends, _continuations(tokenizer))]
    return TextFacts(counts, special_ids(tokenizer), *ids)


def _continuations(tokenizer: Tokenizer) -> list[int]:
    vocabulary, special = tokenizer.get_vocab(), set(all_special(tokenizer))
    prefix = getattr(tokenizer.model, "continuing_subword_prefix", None)
    if isinstance(tokenizer.model, models.WordPiece) or prefix:
        return sorted(i for piece, i in vocabulary.items() if prefix and piece.startswith(prefix))
    words = {piece for piece in vocabulary if piece.startswith(_WORD_MARKS)} | special
    if words == special:  # nothing marks the beginning of a word
        return []
    return sorted(i for piece, i in vocabulary.items() if piece not in words)
