"""The words of a text as written, each with the probability that it was replaced."""

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from electra_kernels.data.rows import Rows
from electra_kernels.data.vocabulary import special_ids
from electra_kernels.evaluation.held_out import slices
from electra_kernels.evaluation.sentences import pad
from electra_kernels.models import Discriminator


class ScoredWord(NamedTuple):
    """A word or punctuation mark, ``text[start:end]``, and the probability that it was replaced.

    ``probability`` is the maximum over the pieces of the word.
    """

    word: str
    start: int
    end: int
    probability: float


class _Piece(NamedTuple):
    """A token, its word within the text, and its characters."""

    token: int
    word: int
    start: int
    end: int


def score_words(
    discriminator: Discriminator, tokenizer: Tokenizer, text: str, length: int
) -> list[ScoredWord]:
    """The words of a text, as the tokenizer splits it, in their order; none if the text has no words.

    Args:
        discriminator: in evaluation mode.
        tokenizer: with special tokens.
        text: one or more lines, of which each is a paragraph.
        length: tokens of a row, [CLS] and [SEP] included; a longer text is cut into several rows.
    """
    pieces = list(_pieces(text, tokenizer))
    scores = _token_probabilities(discriminator, tokenizer, [piece.token for piece in pieces], length)
    words: dict[int, ScoredWord] = {}
    for piece, score in zip(pieces, scores, strict=True):
        before = words.get(piece.word, ScoredWord("", piece.start, piece.end, score))
        start, end = min(before.start, piece.start), max(before.end, piece.end)
        words[piece.word] = ScoredWord(text[start:end], start, end, max(before.probability, score))
    return list(words.values())


def _pieces(text: str, tokenizer: Tokenizer) -> Iterator[_Piece]:
    """The tokens of a text. One that stands for no character but blanks belongs to the word after it."""
    ids = special_ids(tokenizer)
    special = {ids.pad, ids.cls, ids.sep, ids.mask} - {ids.unk}
    # As in training: a byte-level vocabulary marks a word only after a blank.
    blank = " " if "ByteLevel(add_prefix_space=False" in repr(tokenizer.pre_tokenizer) else ""
    first, number = 0, -1  # the first character of the line, and the last word
    for line in text.splitlines(keepends=True):
        encoding = tokenizer.encode(blank + line, add_special_tokens=False)
        last = None
        for token, word, (start, end) in zip(encoding.ids, encoding.word_ids, encoding.offsets, strict=True):
            start, end = _trimmed(text, first + start - len(blank), first + end - len(blank), first)
            if start == end or token in special:
                continue
            number += word is None or word != last
            last = word
            yield _Piece(token, number, start, end)
        first += len(line)


def _trimmed(text: str, start: int, end: int, first: int) -> tuple[int, int]:
    """The span without blanks at its ends, and with the accents that follow its last letter."""
    start = max(start, first)
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and unicodedata.combining(text[end]):
        end += 1
    return start, end


def _token_probabilities(
    discriminator: Discriminator, tokenizer: Tokenizer, tokens: list[int], length: int
) -> list[float]:
    ids, width = special_ids(tokenizer), length - 2
    parts = [tokens[start : start + width] for start in range(0, len(tokens), width)]
    input_ids = pad([[ids.cls, *part, ids.sep] for part in parts], length, ids.pad)
    rows = Rows(input_ids, torch.zeros(len(parts), dtype=torch.int64), ids)
    device = discriminator.head.weight.device
    found: list[float] = []
    for part in slices(rows):
        mask = rows.attention_mask[part]
        with torch.no_grad():
            logits = discriminator.logits(input_ids[part].to(device), mask.to(device)).sigmoid().cpu()
        inside = mask & ~torch.isin(input_ids[part], torch.tensor([ids.cls, ids.sep]))
        found += logits[inside].tolist()
    return found
