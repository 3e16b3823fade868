"""Rows of T token ids: read from a token cache as a plan says, or held in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.packing import SHORTEST_ROW, Plan, TokenStore
from electra_kernels.data.shards import encode_documents
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import SpecialIds, special_ids

_CHUNK_PARAGRAPHS = 4096


class PackedRows:
    """The rows of a plan, read from the memory map of a token cache.

    Memory is that of the batch: neither the tokens nor the plan are loaded.

    Args:
        store: the token cache.
        plan: the result of `electra_kernels.data.packing.plan_rows` for it.
    """

    def __init__(self, store: TokenStore, plan: Plan) -> None:
        self.plan, self.length = plan, plan.length
        self._ids = store.special_ids
        # Plain views: an operation on a memory map costs several times as much.
        self._tokens, self._offsets = np.asarray(store.tokens), np.asarray(store.offsets)
        self._starts, self._lengths = np.asarray(plan.starts), np.asarray(plan.lengths)
        self._rows, self._packed = np.asarray(plan.rows), plan.packed

    def __len__(self) -> int:
        return len(self._rows) - 1

    def batch(self, index: Tensor, numbers: Tensor) -> TokenBatch:
        """The rows ``index`` [B] on the CPU, with their ``numbers`` [B] in the run.

        Raises:
            IndexError: an index is out of range.
        """
        first, end = self._rows[index.numpy()], self._rows[index.numpy() + 1]
        row = np.repeat(np.arange(len(index)), end - first)
        nth = np.arange(len(row)) - np.searchsorted(row, row)
        piece = first[row] + nth
        starts, lengths = self._starts[piece], self._lengths[piece].astype(np.int64)
        spans = _spans(row, len(index), starts, lengths, self.length)
        cells = np.arange(len(index) * self.length)
        # The cells of [CLS], [SEP] and padding read the token that is next to the piece, and are overwritten.
        tokens = self._tokens.take(np.repeat(spans.source - spans.begin, spans.size) + cells, mode="clip")
        input_ids = tokens.astype(np.int64)
        input_ids[spans.begin[spans.of_piece]] = self._ids.cls
        input_ids[spans.begin[spans.of_piece] + lengths + 1] = self._ids.sep
        segment = np.zeros_like(spans.size)
        segment[spans.of_piece] = nth + 1
        segments = np.repeat(segment, spans.size)
        is_token = segments > 0
        np.putmask(input_ids, ~is_token, self._ids.pad)
        maskable = is_token.copy()
        for special in astuple(self._ids):
            maskable &= input_ids != special
        document = np.searchsorted(self._offsets, self._starts[first], side="right") - 1
        shape = (len(index), self.length)
        return TokenBatch(
            torch.from_numpy(input_ids).view(shape),
            torch.from_numpy(is_token).view(shape),
            torch.from_numpy(maskable).view(shape),
            torch.from_numpy(document),
            numbers,
            torch.from_numpy(segments).view(shape) if self._packed else None,
        )


class _Spans(NamedTuple):
    """The cells of a batch, row after row, as spans: the pieces of a row with [CLS] and [SEP], then its padding."""

    of_piece: np.ndarray  # [P], the span of each piece
    size: np.ndarray  # [P + B], cells
    begin: np.ndarray  # [P + B], first cell
    source: np.ndarray  # [P + B], the token of the store for the first cell


def _spans(row: np.ndarray, rows: int, starts: np.ndarray, lengths: np.ndarray, width: int) -> _Spans:
    of_piece = np.arange(len(row)) + row
    is_padding = np.ones(len(row) + rows, bool)
    is_padding[of_piece] = False
    size, source = np.empty_like(is_padding, np.int64), np.zeros_like(is_padding, np.int64)
    size[of_piece] = lengths + 2
    size[is_padding] = width - np.bincount(row, size[of_piece], rows).astype(np.int64)
    source[of_piece] = starts - 1
    source[is_padding] = source[np.flatnonzero(is_padding) - 1]
    return _Spans(of_piece, size, np.cumsum(size) - size, source)


@dataclass
class Rows:
    """M rows of T tokens. A row never crosses the boundary of a document.

    Attributes:
        input_ids: int64 [M, T]; a row is [CLS], tokens, [SEP], padding.
        document: int64 [M], the index of the document that a row comes from.
        special_ids: ids of the five special tokens.
    """

    input_ids: Tensor
    document: Tensor
    special_ids: SpecialIds

    @property
    def length(self) -> int:
        return self.input_ids.shape[1]

    def __len__(self) -> int:
        return len(self.input_ids)

    def batch(self, index: Tensor, numbers: Tensor) -> TokenBatch:
        """The rows ``index`` [B], with their ``numbers`` [B] in the run."""
        return TokenBatch(
            self.input_ids[index],
            self.attention_mask[index],
            self.maskable[index],
            self.document[index],
            numbers,
        )

    @cached_property
    def attention_mask(self) -> Tensor:
        """Bool [M, T], False at padding."""
        return self.input_ids != self.special_ids.pad

    @cached_property
    def maskable(self) -> Tensor:
        """Bool [M, T], True at tokens of the text, False at padding and special tokens including [UNK]."""
        ids = self.special_ids
        special = torch.tensor([ids.pad, ids.unk, ids.cls, ids.sep, ids.mask])
        return ~torch.isin(self.input_ids, special)


def encode_rows(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, *, shortest: int = SHORTEST_ROW
) -> Rows:
    """Encode documents and cut them into rows.

    The paragraphs of a document follow one another without a separator, and a long document continues in the next
    row. A row with fewer than ``shortest`` tokens of text, at the end of a document, is left out.

    Args:
        documents: the text.
        tokenizer: a WordPiece tokenizer with the five special tokens.
        length: T, at least 10.
        shortest: smallest number of text tokens in a row.

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
    for index, tokens in enumerate(_encode_documents(documents, tokenizer, ids)):
        for start in range(0, len(tokens), width):
            piece = tokens[start : start + width]
            if len(piece) >= shortest:
                padding = [ids.pad] * (width - len(piece))
                rows.append(torch.tensor([ids.cls, *piece, ids.sep, *padding]))
                sources.append(index)
    input_ids = torch.stack(rows) if rows else torch.empty(0, length, dtype=torch.int64)
    return Rows(input_ids, torch.tensor(sources, dtype=torch.int64), ids)


def spread(rows: Rows, count: int) -> Rows:
    """At most ``count`` rows at even distances, so that every document is represented by its share."""
    total = len(rows.input_ids)
    index = torch.linspace(0, total - 1, min(count, total)).round().long()
    return Rows(rows.input_ids[index], rows.document[index], rows.special_ids)


def unigram_counts(rows: Rows, vocab_size: int) -> Tensor:
    """How often each token occurs at maskable positions, int64 [vocab_size]."""
    return torch.bincount(rows.input_ids[rows.maskable], minlength=vocab_size)


def _encode_documents(
    documents: Sequence[Document], tokenizer: Tokenizer, ids: SpecialIds
) -> Iterator[list[int]]:
    """The token ids of each document, encoded in chunks of about _CHUNK_PARAGRAPHS."""
    start = 0
    while start < len(documents):
        stop, paragraphs = start, 0
        while stop < len(documents) and (stop == start or paragraphs < _CHUNK_PARAGRAPHS):
            paragraphs += len(documents[stop].paragraphs)
            stop += 1
        yield from encode_documents(tokenizer, documents[start:stop], ids)
        start = stop
