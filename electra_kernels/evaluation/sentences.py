"""Sentences of a text as words, and their tokens with the word that each token is a piece of."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.vocabulary import special_ids
from electra_kernels.data.words import SENTENCE_WORDS, split_sentences, split_words

Sentence = tuple[str, ...]  # words and punctuation marks


class EncodedSentence(NamedTuple):
    """The tokens of a sentence.

    Attributes:
        input_ids: [CLS], the pieces of the words, [SEP].
        words: for each token the index of its word, -1 for [CLS] and [SEP].
    """

    input_ids: list[int]
    words: list[int]


def sentences_in(paragraphs: Sequence[str]) -> Iterator[Sentence]:
    """The sentences of 6 to 40 words and marks, in their order."""
    for paragraph in paragraphs:
        for text in split_sentences(paragraph):
            sentence = tuple(split_words(text))
            if len(sentence) in SENTENCE_WORDS:
                yield sentence


def encode_sentences(
    sentences: Sequence[Sequence[str]], tokenizer: Tokenizer, length: int
) -> list[EncodedSentence]:
    """Encode sentences that are split into words.

    Args:
        sentences: words and punctuation marks.
        tokenizer: a WordPiece tokenizer with the five special tokens.
        length: most tokens of a sentence, [CLS] and [SEP] included; a longer sentence is cut.
    """
    ids = special_ids(tokenizer)
    encodings = tokenizer.encode_batch(list(map(list, sentences)), True, add_special_tokens=False)
    return [
        EncodedSentence(
            [ids.cls, *encoding.ids[: length - 2], ids.sep],
            [-1, *(-1 if word is None else word for word in encoding.word_ids[: length - 2]), -1],
        )
        for encoding in encodings
    ]


def pad(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    """Rows of up to ``length`` numbers, filled up with ``value``: int64 [M, length]."""
    filled = [[*row, *[value] * (length - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64).reshape(len(rows), length)
