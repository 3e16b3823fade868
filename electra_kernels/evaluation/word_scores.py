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
    words: list[ScoredWord] = []
    last = -1
    for piece, score in zip(pieces, scores, strict=True):
        continues = words and (piece.word == last or piece.start < words[-1].end)
        before = words.pop() if continues else ScoredWord("", piece.start, piece.end, score)
        # An empty span says nothing about the place of the word.
        spans = [span for span in (before[1:3], piece[2:4]) if span[0] < span[1]] or [piece[2:4]]
        start, end = min(span[0] for span in spans), max(span[1] for span in spans)
        words.append(ScoredWord(text[start:end], start, end, max(before.probability, score)))
        last = piece.word
    return [word for word in words if word.word]


def _pieces(text: str, tokenizer: Tokenizer) -> Iterator[_Piece]:
    """The tokens of a text. The span of one that stands for blanks alone is empty."""
    ids = special_ids(tokenizer)
    # As in training: a word that looks like a special token is unknown, and a byte-level vocabulary marks a word only
    # after a blank.
    special = {ids.pad, ids.cls, ids.sep, ids.mask}
    blank = " " if "ByteLevel(add_prefix_space=False" in repr(tokenizer.pre_tokenizer) else ""
    first, number = 0, -1  # the first character of the line, and the last word
    for line, whole in zip(text.splitlines(), text.splitlines(keepends=True), strict=True):
        encoding = tokenizer.encode(blank + line, add_special_tokens=False)
        last = None
        for token, word, (start, end) in zip(encoding.ids, encoding.word_ids, encoding.offsets, strict=True):
            if token in special and ids.unk in special:
                continue
            token = ids.unk if token in special else token
            number += word is None or word != last
            last = word
            shift = first - len(blank)
            yield _Piece(token, number, *_trimmed(text, start + shift, end + shift, first))
        first += len(whole)


def _trimmed(text: str, start: int, end: int, first: int) -> tuple[int, int]:
    """The span without blanks at its ends, and with the accents that follow its last letter."""
    start, end = max(start, first), max(end, first)
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
