"""Sentences with a label per word → rows of tokens; and what a rule reaches that knows the words but no context."""

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
from electra_kernels.data.words import SENTENCE_WORDS, split_sentences, split_words
from electra_kernels.evaluation.probing.task import Examples, pad
from electra_kernels.metrics import area_under_curve

Sentence = tuple[str, ...]


class Word(NamedTuple):
    """A word or mark of the input, whether it is asked about, and the answer."""

    text: str
    asked: bool
    label: bool


@dataclass(frozen=True)
class WordRows:
    """Sentences with a label per word, one a row.

    Attributes:
        input_ids: int64 [M, T]; a sentence that is longer is cut.
        attention_mask: bool [M, T].
        place: int64 [M, T], the index in ``words`` of the word that a token is a piece of, -1 for none.
        words: of all sentences, one after the other.
    """

    input_ids: Tensor
    attention_mask: Tensor
    place: Tensor
    words: list[Word]

    @cached_property
    def asked(self) -> Tensor:
        """Bool [M, T]: the pieces of the words that are asked about."""
        return torch.tensor([word.asked for word in self.words] + [False])[self.place]

    @cached_property
    def labels(self) -> Tensor:
        """Bool [M, T]: each piece has the label of its word."""
        return torch.tensor([word.label for word in self.words] + [False])[self.place]

    @cached_property
    def first(self) -> Tensor:
        """Bool [M, T]: the first piece of each word."""
        return (self.place >= 0) & (self.place != self.place.roll(1, dims=-1))

    def examples(self, *, first_pieces: bool) -> Examples:
        """Of the first pieces of the words, or of all pieces."""
        asked = self.asked & self.first if first_pieces else self.asked
        return Examples(self.input_ids, self.attention_mask, asked, self.labels)

    def asked_words(self) -> list[Word]:
        """Those that are asked about and of which the row has a piece."""
        return [self.words[index] for index in self.place[self.asked & self.first].tolist()]


def pick_sentences(
    documents: Sequence[Document], most: int, seed: int, *, without: Sequence[Sentence] = ()
) -> list[Sentence]:
    """Some sentences of 6 to 40 words and marks, from paragraphs in random order.

    Args:
        documents: where from.
        most: how many at most.
        seed: of the choice.
        without: sentences to leave out. One that differs in case and commas alone is the same sentence, here and
            among those that are picked: a model is shown neither.
    """
    paragraphs = [paragraph for document in documents for paragraph in document.paragraphs]
    random.Random(seed).shuffle(paragraphs)
    left_out = set(map(_shown, without))
    picked: dict[Sentence, Sentence] = {}
    for paragraph in paragraphs:
        if len(picked) >= most:
            break
        for text in split_sentences(paragraph):
            sentence = tuple(split_words(text))
            if len(sentence) in SENTENCE_WORDS and _shown(sentence) not in left_out:
                picked.setdefault(_shown(sentence), sentence)
    return list(picked.values())[:most]


def encode_words(sentences: Sequence[Sequence[Word]], tokenizer: Tokenizer, length: int) -> WordRows:
    """One sentence a row of ``length`` tokens, the short ones first."""
    ids = special_ids(tokenizer)
    rows, places = [], []
    words: list[Word] = []
    texts = [[word.text for word in sentence] for sentence in sentences]
    for sentence, encoding in zip(sentences, tokenizer.encode_batch(texts, True, add_special_tokens=False)):
        rows.append([ids.cls, *encoding.ids[: length - 2], ids.sep])
        start = len(words)
        inside = [-1 if place is None else start + place for place in encoding.word_ids[: length - 2]]
        places.append([-1, *inside, -1])
        words += sentence
    # Rows of one length side by side: a batch of them has little padding.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    input_ids = pad([rows[index] for index in order], length, ids.pad)
    return WordRows(
        input_ids, input_ids != ids.pad, pad([places[index] for index in order], length, -1), words
    )


def word_baseline(train: WordRows, test: WordRows) -> float:
    """AUC, per word of the test rows, of the share of yes among the occurrences of that word in the training rows.

    The share is (yes + p) / (occurrences + 1), with p that of all words: what a new word gets.
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
