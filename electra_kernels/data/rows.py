"""Documents → rows of token ids of one length → endless batches of row indices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import SpecialIds, special_ids
from electra_kernels.errors import UserError

SHORTEST_ROW = 8
_PARAGRAPHS_AT_ONCE = 4096


@dataclass
class Rows:
    """Rows of tokens, none of which crosses the boundary of a document.

    Attributes:
        input_ids: int64 [M, T], each row [CLS] tokens [SEP] and then padding.
        document: int64 [M], the index of the document that a row is from.
        special_ids: the ids of the tokens that are no text.
    """

    input_ids: Tensor
    document: Tensor
    special_ids: SpecialIds

    @cached_property
    def attention_mask(self) -> Tensor:
        """Bool [M, T]: everything but padding."""
        return self.input_ids != self.special_ids.pad

    @cached_property
    def maskable(self) -> Tensor:
        """Bool [M, T]: the tokens of the text; no padding and no special token, [UNK] included."""
        ids = self.special_ids
        special = torch.tensor([ids.pad, ids.unk, ids.cls, ids.sep, ids.mask])
        return ~torch.isin(self.input_ids, special)


def encode_rows(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, *, shortest: int = SHORTEST_ROW
) -> Rows:
    """Encode documents and cut them into rows.

    The paragraphs of a document follow one another without anything between them; a long document goes on in the
    next row. A row with fewer than ``shortest`` tokens of text (the end of a document) is left out.

    Args:
        documents: D of them.
        tokenizer: a WordPiece tokenizer with the five special tokens.
        length: T, at least 10.
        shortest: fewest tokens of text in a row.

    Returns:
        M rows of T tokens, in the order of the documents.

    Raises:
        UserError: the vocabulary lacks a special token.
        ValueError: length is less than 10.
    """
    if length < SHORTEST_ROW + 2:
        raise ValueError(f"length: {length} should be at least {SHORTEST_ROW + 2}")
    ids, width = special_ids(tokenizer), length - 2
    rows, sources = [], []
    for index, tokens in enumerate(_encoded(documents, tokenizer)):
        for start in range(0, len(tokens), width):
            piece = tokens[start : start + width]
            if len(piece) >= shortest:
                padding = [ids.pad] * (width - len(piece))
                rows.append(torch.tensor([ids.cls, *piece, ids.sep, *padding]))
                sources.append(index)
    input_ids = torch.stack(rows) if rows else torch.empty(0, length, dtype=torch.int64)
    return Rows(input_ids, torch.tensor(sources, dtype=torch.int64), ids)


def spread(rows: Rows, count: int) -> Rows:
    """At most ``count`` rows, evenly spread over all, so that every document has its share."""
    total = len(rows.input_ids)
    index = torch.linspace(0, total - 1, min(count, total)).round().long()
    return Rows(rows.input_ids[index], rows.document[index], rows.special_ids)


def batches(rows: Rows, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches of row indices, each int64 [batch_size].

    Every epoch is a new permutation of all rows; a batch that begins at the end of one goes on in the
    next, so that all are full. The order depends on `seed` alone; the global random state is left as it is.

    Raises:
        UserError: there are no rows.
        ValueError: batch_size is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} should be at least 1")
    if not len(rows.input_ids):
        raise UserError(f"too little text: no document has {SHORTEST_ROW} tokens")
    return _batches(len(rows.input_ids), batch_size, seed)


def unigram_counts(rows: Rows, vocab_size: int) -> Tensor:
    """How often each token occurs among the maskable ones: int64 [vocab_size]."""
    return torch.bincount(rows.input_ids[rows.maskable], minlength=vocab_size)


def _batches(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def _encoded(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The token ids of each document, encoded many paragraphs at a time."""
    start = 0
    while start < len(documents):
        stop, paragraphs = start, 0
        while stop < len(documents) and (stop == start or paragraphs < _PARAGRAPHS_AT_ONCE):
            paragraphs += len(documents[stop].paragraphs)
            stop += 1
        chunk = documents[start:stop]
        texts = [paragraph for document in chunk for paragraph in document.paragraphs]
        encodings = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        for document in chunk:
            yield [token for _ in document.paragraphs for token in next(encodings).ids]
        start = stop
