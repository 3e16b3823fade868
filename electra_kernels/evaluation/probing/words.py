"""Sentences with a label per word, as rows of tokens; and a baseline that knows the words but no context."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import special_ids
from electra_kernels.evaluation.probing.task import Examples
from electra_kernels.evaluation.sentences import Sentence, encode_sentences, pad, sentences_in
from electra_kernels.metrics import area_under_curve


class Word(NamedTuple):
    """A word or punctuation mark of the input, whether it has a label that counts, and that label."""

    text: str
    asked: bool
    label: bool


@dataclass(frozen=True)
class WordRows:
    """Sentences with a label per word, one per row.

    Attributes:
        input_ids: int64 [M, T]; a longer sentence is cut.
        attention_mask: bool [M, T].
        word_index: int64 [M, T], for each token the index of its word in ``words``, -1 for special tokens and
            padding.
        words: the words of all sentences, one sentence after the other.
    """

    input_ids: Tensor
    attention_mask: Tensor
    word_index: Tensor
    words: list[Word]

    @cached_property
    def asked(self) -> Tensor:
        """Bool [M, T]: the pieces of words whose label counts."""
        return torch.tensor([word.asked for word in self.words] + [False])[self.word_index]

    @cached_property
    def labels(self) -> Tensor:
        """Bool [M, T]: each piece has the label of its word."""
        return torch.tensor([word.label for word in self.words] + [False])[self.word_index]

    @cached_property
    def first(self) -> Tensor:
        """Bool [M, T]: the first piece of each word."""
        return (self.word_index >= 0) & (self.word_index != self.word_index.roll(1, dims=-1))

    def examples(self, *, first_pieces: bool) -> Examples:
        """Examples whose labels count at the first piece of each asked word, or at all its pieces."""
        asked = self.asked & self.first if first_pieces else self.asked
        return Examples(self.input_ids, self.attention_mask, asked, self.labels)

    def asked_words(self) -> list[Word]:
        """Asked words with at least one token in the row."""
        return [self.words[index] for index in self.word_index[self.asked & self.first].tolist()]


def pick_sentences(
    documents: Sequence[Document], most: int, seed: int, *, without: Sequence[Sentence] = ()
) -> list[Sentence]:
    """Pick sentences of 6 to 40 words and marks from paragraphs in random order.

    Two sentences that differ only in case and commas count as the same sentence, both here and for ``without``: the
    input of a model shows neither.

    Args:
        documents: the text.
        most: largest number of sentences.
        seed: seed of the order.
        without: sentences to leave out.
    """
    paragraphs = [paragraph for document in documents for paragraph in document.paragraphs]
    random.Random(seed).shuffle(paragraphs)
    left_out = set(map(_shown, without))
    picked: dict[Sentence, Sentence] = {}
    for paragraph in paragraphs:
        if len(picked) >= most:
            break
        for sentence in sentences_in([paragraph]):
            if _shown(sentence) not in left_out:
                picked.setdefault(_shown(sentence), sentence)
    return list(picked.values())[:most]


def encode_words(sentences: Sequence[Sequence[Word]], tokenizer: Tokenizer, length: int) -> WordRows:
    """One sentence per row of ``length`` tokens, short sentences first."""
    texts = [[word.text for word in sentence] for sentence in sentences]
    rows, indices = [], []
    words: list[Word] = []
    for sentence, encoded in zip(sentences, encode_sentences(texts, tokenizer, length)):
        rows.append(encoded.input_ids)
        indices.append([-1 if index < 0 else len(words) + index for index in encoded.words])
        words += sentence
    # Rows of one length stand side by side, so a batch of them has little padding.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    padding = special_ids(tokenizer).pad
    input_ids = pad([rows[index] for index in order], length, padding)
    word_index = pad([indices[index] for index in order], length, -1)
    return WordRows(input_ids, input_ids != padding, word_index, words)


def word_baseline(train: WordRows, test: WordRows) -> float:
    """AUC, per word of the test rows, of the share of yes among the occurrences of that word in the training rows.

    The share is (yes + p) / (occurrences + 1), where p is the share of yes among all words. A new word gets p.
    """
    words = train.asked_words()
    seen = Counter(word.text.lower() for word in words)
    yes = Counter(word.text.lower() for word in words if word.label)
    prior = sum(yes.values()) / max(1, len(words))
    asked = test.asked_words()
    shares = [(yes[text] + prior) / (seen[text] + 1) for text in (word.text.lower() for word in asked)]
    return area_under_curve(torch.tensor(shares), torch.tensor([word.label for word in asked]))


def _shown(sentence: Sentence) -> Sentence:
    return tuple(word.lower() for word in sentence if word != ",")
