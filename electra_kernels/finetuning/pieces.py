"""Words → windows of word pieces → scores per word.

Words are encoded one by one, so no piece belongs to two words. A sentence that is longer than a row is divided among
windows that overlap: each word is owned by one of them, with context on both sides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from electra_kernels.finetuning.example import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100  # label of a token that has no part in the loss
_BATCH = 1024  # sentences that are encoded at once

Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Window:
    """A row of a token classifier, without padding. The three lists have the same length.

    Attributes:
        example: index of its sentence.
        input_ids: special tokens of the tokenizer around word pieces.
        words: for each token the index of its word in the sentence; -1 for special tokens and for context, whose words
            another window owns.
        labels: label of each token, `IGNORED` where it has none.
        shortened: number of its words of which only the first pieces are in it.
    """

    example: int
    input_ids: list[int]
    words: list[int]
    labels: list[int]
    shortened: int = 0


@dataclass(frozen=True)
class TextWindow:
    """A row of a classifier of texts: index of the text, its tokens, and the label (`IGNORED` if there is none)."""

    example: int
    input_ids: list[int]
    label: int


def windows(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
    length: int,
    *,
    label_all_pieces: bool = False,
    label_ids: Mapping[str, int] | None = None,
) -> list[Window]:
    """Divide sentences into rows of at most ``length`` tokens, in the order of the sentences.

    A word of which the tokenizer makes no piece, such as a control character, is in no window, and a sentence of such
    words has none. Of a word that is longer than half a row, in a sentence that is longer than a row, the first pieces
    are kept. `notes` says how many words that concerns.

    Args:
        examples: sentences as words.
        tokenizer: a fast tokenizer of transformers, which is not changed.
        length: most tokens of a row, special tokens included.
        label_all_pieces: every piece of a word carries its label, with I-TYPE after the first piece of B-TYPE;
            otherwise the first piece alone does.
        label_ids: number of each tag; without it no token has a label.

    Raises:
        ValueError: ``length`` leaves no room beside the special tokens.
    """
    encoder = _Encoder(tokenizer, length)
    found = []
    for index, pieces in enumerate(encoder.pieces(examples)):
        labels = _piece_labels(examples[index], pieces, label_ids or {}, label_all_pieces)
        sizes = [len(ids) for ids in pieces]
        pieces, labels = _shortened(pieces, encoder.room), _shortened(labels, encoder.room)
        words = [word for word, ids in enumerate(pieces) for _ in ids]
        tokens = [piece for ids in pieces for piece in ids]
        flat = [label for each in labels for label in each]
        for owned, shown in _spans([len(ids) for ids in pieces], encoder.room):
            part = slice(shown.start, shown.stop)
            owner = [word in owned for word in words[part]]
            found.append(
                Window(
                    index,
                    encoder.row(tokens[part]),
                    encoder.around([w if own else -1 for w, own in zip(words[part], owner)], -1),
                    encoder.around([y if own else IGNORED for y, own in zip(flat[part], owner)], IGNORED),
                    sum(sizes[word] > len(pieces[word]) for word in owned),
                )
            )
    return found


def per_word(
    rows: Sequence[Window], scores: Sequence[Scores], examples: Sequence[Example], missing: Scores
) -> list[Scores]:
    """Scores of the words of each sentence: those of the first piece.

    Args:
        rows: all windows of the sentences.
        scores: of the tokens of each window, [T, C]; further rows (padding) are not read.
        examples: the sentences.
        missing: [C], the scores of a word without pieces.

    Returns:
        An array [W, C] for each sentence.
    """
    merged = [np.tile(np.asarray(missing), (len(example.words), 1)) for example in examples]
    for window, values in zip(rows, scores, strict=True):
        for token, (before, word) in enumerate(zip((-1, *window.words), window.words)):
            if word not in (-1, before):
                merged[window.example][word] = values[token]
    return merged


def notes(rows: Sequence[Window], examples: Sequence[Example]) -> list[str]:
    """Lines for the user, one per kind, that count the words which the model does not see, or not whole."""
    seen = {(window.example, word) for window in rows for word in window.words if word >= 0}
    unseen = sum(len(example.words) for example in examples) - len(seen)
    shortened = sum(window.shortened for window in rows)
    lines = []
    if unseen:
        lines.append(f"words of which the tokenizer makes no piece, labelled without the model: {unseen}")
    if shortened:
        lines.append(f"words longer than half a row, of which the first pieces are read: {shortened}")
    return lines


def text_windows(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
    length: int,
    *,
    label_ids: Mapping[str, int] | None = None,
) -> list[TextWindow]:
    """Divide texts into rows of at most ``length`` tokens that overlap by a quarter. Each row has the text's label.

    Raises:
        ValueError: ``length`` leaves no room beside the special tokens.
    """
    encoder = _Encoder(tokenizer, length)
    found = []
    for index, ids in enumerate(encoder.texts(examples)):
        label = examples[index].label
        number = IGNORED if label is None or label_ids is None else label_ids[label]
        for _, shown in _spans([1] * len(ids), encoder.room) if ids else [(range(0), range(0))]:
            found.append(TextWindow(index, encoder.row(ids[shown.start : shown.stop]), number))
    return found


def per_text(rows: Sequence[TextWindow], scores: Sequence[Scores], count: int) -> Scores:
    """The mean of the scores [C] of the windows of each text, [count, C]."""
    places = np.array([window.example for window in rows])
    total = np.zeros((count, np.shape(scores)[1]))
    np.add.at(total, places, np.asarray(scores))
    return total / np.bincount(places, minlength=count)[:, None]


class _Encoder:
    """A copy of a tokenizer that neither cuts nor pads, and the special tokens around a row.

    A special token that stands in the text, such as the word ``[SEP]``, is encoded as any other word.

    Attributes:
        room: most tokens between the special tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", length: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._before, self._after = self._special_tokens(tokenizer)
        self.room = length - len(self._before) - len(self._after)
        if self.room < 1:
            least = length - self.room + 1
            raise ValueError(
                f"length: {length} should be at least {least}, to hold the special tokens and a piece"
            )
        self._blank = " " if self._distinguishes_blanks() else ""

    def _special_tokens(self, tokenizer: "PreTrainedTokenizerFast") -> tuple[list[int], list[int]]:
        """The ids before and after a row: those of the tokenizer's template or, without one, [CLS] and [SEP]."""
        if not self._tokenizer.num_special_tokens_to_add(False):
            ids = (tokenizer.cls_token_id, tokenizer.sep_token_id)
            before, after = ([] if number is None else [number] for number in ids)
            return before, after
        for probe in "ae1.":
            encoding = self._tokenizer.encode(probe)
            mask = encoding.special_tokens_mask
            if 0 in mask:
                end = len(mask) - mask[::-1].index(0)
                return encoding.ids[: mask.index(0)], encoding.ids[end:]
        raise ValueError("tokenizer: it makes no piece of a letter, a digit or a full stop")

    def _distinguishes_blanks(self) -> bool:
        """Whether a word after a blank has other pieces than one at the beginning, as in byte-level BPE.

        `add_prefix_space` of such a tokenizer is often off; then the blank is given together with the word.
        """
        text = self._tokenizer.encode("a a", add_special_tokens=False).ids
        alone, after = (
            self._tokenizer.encode(["a", word], is_pretokenized=True, add_special_tokens=False).ids
            for word in ("a", " a")
        )
        return text == after != alone

    def pieces(self, examples: Sequence[Example]) -> Iterator[list[list[int]]]:
        """The pieces of each word of each sentence."""
        for start in range(0, len(examples), _BATCH):
            part = examples[start : start + _BATCH]
            encodings = self._tokenizer.encode_batch(
                [self._written(example) for example in part], is_pretokenized=True, add_special_tokens=False
            )
            for example, encoding in zip(part, encodings):
                words: list[list[int]] = [[] for _ in example.words]
                for piece, word in zip(encoding.ids, encoding.word_ids):
                    words[word or 0].append(piece)
                yield words

    def _written(self, example: Example) -> list[str]:
        ends = (0, *(end for _, end in example.spaces))
        return [
            self._blank + word if start > end else word
            for word, (start, _), end in zip(example.words, example.spaces, ends)
        ]

    def texts(self, examples: Sequence[Example]) -> Iterator[list[int]]:
        """The pieces of each text."""
        for start in range(0, len(examples), _BATCH):
            texts = [example.text for example in examples[start : start + _BATCH]]
            for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False):
                yield encoding.ids

    def row(self, pieces: list[int]) -> list[int]:
        return [*self._before, *pieces, *self._after]

    def around(self, values: list[int], special: int) -> list[int]:
        """Values of pieces, with another one for the special tokens."""
        return [*[special] * len(self._before), *values, *[special] * len(self._after)]


def _piece_labels(
    example: Example, pieces: Sequence[Sequence[int]], label_ids: Mapping[str, int], all_pieces: bool
) -> list[list[int]]:
    """The label of each piece of each word."""
    if example.tags is None or not label_ids:
        return [[IGNORED] * len(ids) for ids in pieces]
    labels = []
    for tag, ids in zip(example.tags, pieces):
        inside = f"I-{tag[2:]}" if tag.startswith("B-") else tag
        further = label_ids.get(inside, label_ids[tag]) if all_pieces else IGNORED
        labels.append([label_ids[tag], *[further] * (len(ids) - 1)][: len(ids)])
    return labels


def _shortened(words: list[list[int]], room: int) -> list[list[int]]:
    """At most half a row of each word, if the sentence is longer than a row: the rest is room for context."""
    if sum(map(len, words)) <= room:
        return words
    return [ids[: max(1, room // 2)] for ids in words]


def _spans(sizes: Sequence[int], room: int) -> Iterator[tuple[range, range]]:
    """The windows of a sentence: words that each one owns, and the tokens in it.

    Args:
        sizes: number of tokens of each word; at most ``room // 2`` (but 1) if their sum exceeds ``room``.
        room: most tokens of a window. A quarter is context on each side, except at the ends of the sentence.
    """
    ends = list(accumulate(sizes, initial=0))
    total, count, context = ends[-1], len(sizes), room // 4
    first = 0
    while first < count and total > ends[first]:
        before = min(context, ends[first])
        if total - ends[first] + before <= room:
            last = count
            before = min(ends[first], room - (total - ends[first]))
        else:
            last = first + 1
            while ends[last + 1] - ends[first] <= room - before - context:
                last += 1
        begin = ends[first] - before
        yield range(first, last), range(begin, min(total, begin + room))
        first = last
