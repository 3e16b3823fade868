"""One labelled sentence or text."""

from collections.abc import Sequence
from dataclasses import dataclass

from electra_kernels.data.words import split_words

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Example:
    """A sentence with a tag per word, or a text with a label.

    Attributes:
        words: as they are written.
        spaces: first and last (exclusive) character of each word in `text`.
        text: the sentence as text; the words are joined by blanks where the input does not say how.
        line: number of its first line (or record) in the file, from 1.
        tags: one per word, or None.
        label: of the whole text, or None.
        lines: the line of each word where words have lines of their own, otherwise empty.
    """

    words: tuple[str, ...]
    spaces: Spans
    text: str
    line: int
    tags: tuple[str, ...] | None = None
    label: str | None = None
    lines: tuple[int, ...] = ()


def join_words(words: Sequence[str]) -> tuple[str, Spans]:
    """The words joined by blanks, and where each of them stands."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), tuple(spans)


def find_words(words: Sequence[str], text: str) -> Spans | None:
    """Where each of the words stands in the text; None if anything but white space is between them."""
    spans, end = [], 0
    for word in words:
        start = text.find(word, end)
        if start < 0 or text[end:start].strip():
            return None
        end = start + len(word)
        spans.append((start, end))
    return None if text[end:].strip() else tuple(spans)


def split_text(text: str, line: int = 1) -> Example:
    """An example without labels: the words and punctuation marks of a text where BERT's tokenizer splits it."""
    words = split_words(text)
    spans = find_words(words, text)
    assert spans is not None, "split_words leaves out nothing but white space"
    return Example(tuple(words), spans, text, line)
