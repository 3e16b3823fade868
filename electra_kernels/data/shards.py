"""The two passes over a shard of the text: surveying it, and encoding it. Each writes files of its own.

A shard is finished when its .json file is there; that is written last.
"""

import hashlib
import heapq
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from electra_kernels.data.document import Document
from electra_kernels.data.held_out import Candidate, beginning, candidate, divide
from electra_kernels.data.notes import Notes
from electra_kernels.data.pieces import Piece, hash_piece
from electra_kernels.data.reading import Reader
from electra_kernels.data.vocabulary import SpecialIds, load_vocabulary, special_ids
from electra_kernels.files import write_whole
from electra_kernels.special_tokens import all_special

Report = Callable[[int], None]  # called with the bytes of text that were processed since the last call
_BATCH = 1 << 18  # bytes of text that are encoded at once


@dataclass(frozen=True)
class Shard:
    """Pieces that one process works on, one after the other.

    Attributes:
        stem: path of its files, without suffixes.
        pieces: its text.
    """

    stem: Path
    pieces: tuple[Piece, ...]

    @property
    def text_size(self) -> int:
        return sum(piece.text_size for piece in self.pieces)

    def file(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    def is_finished(self, suffix: str) -> bool:
        return self.file(suffix).is_file()

    def finished(self, suffix: str) -> dict[str, Any]:
        """What a finished pass has written."""
        result: dict[str, Any] = json.loads(self.file(suffix).read_text())
        return result


@dataclass(frozen=True)
class Survey:
    """The first pass: how much text there is, which documents may be held out, and a sample for the vocabulary.

    Attributes:
        shard: the text.
        field, wrapped: see `Reader`.
        largest_held_out: bytes of the documents with the smallest hashes that are written to .candidates.jsonl.
        largest_hash: documents with larger hashes are not written.
        sample: bytes of the documents that are written to .sample.jsonl, at even distances.
        sample_all: whether the sample should be all text, rather than documents at even distances.
    """

    SUFFIX = ".survey.json"

    shard: Shard
    field: str
    wrapped: bool
    largest_held_out: int
    largest_hash: int
    sample: int
    sample_all: bool

    def __call__(self, report: Report) -> None:
        lowest, sampled, total, count = _Lowest(self.largest_held_out, self.largest_hash), 0, 0, 0
        notes, ragged, lines, hashes = Notes(), 0, 0, []
        before = unreported = 0  # bytes of the pieces that are read, and of text
        with open(self.shard.file(".sample.jsonl"), "w", encoding="ascii") as sample:
            for piece in self.shard.pieces:
                hashes.append(hash_piece(piece))
                reader = Reader(notes, self.field, self.wrapped)
                for document in reader.documents(piece):
                    size = document.size
                    total, count = total + size, count + 1
                    lowest.add(document)
                    position = before + min(reader.position, piece.text_size)
                    share = 1.0 if self.sample_all else position / max(self.shard.text_size, 1)
                    if self.sample and sampled <= self.sample * share:
                        # Long documents would not fit into the sample of a small part of a large text.
                        part = document if size <= self.sample else beginning(document, self.sample // 4)
                        if sampled + part.size <= self.sample:
                            sample.write(part.to_json() + "\n")
                            sampled += part.size
                    unreported += size
                    if unreported >= _BATCH:
                        report(unreported)
                        unreported = 0
                before += piece.text_size
                lines, ragged = lines + reader.lines, ragged + reader.ragged
        report(unreported)
        lowest.write(self.shard.file(".candidates.jsonl"))
        result = {
            "bytes": total,
            "documents": count,
            "sample": sampled,
            "notes": notes.kinds,
            "lines": lines,
            "ragged": ragged,
            "hashes": hashes,
        }
        write_whole(self.shard.file(self.SUFFIX), json.dumps(result))


@dataclass(frozen=True)
class Encoding:
    """The second pass: training documents → token ids.

    Attributes:
        shard: the text.
        field, wrapped: see `Reader`.
        tokenizer: folder of the vocabulary.
        held_out: name → bytes at the end of the document that are held out.
        held_out_hashes: file with `paragraph_hash` of every held-out paragraph.
    """

    SUFFIX = ".encoding.json"

    shard: Shard
    field: str
    wrapped: bool
    tokenizer: Path
    held_out: dict[str, int]
    held_out_hashes: Path

    def __call__(self, report: Report) -> None:
        tokenizer, held_out = load_vocabulary(self.tokenizer), _read_hashes(self.held_out_hashes)
        vocab_size, special = tokenizer.get_vocab_size(), special_ids(tokenizer)
        dtype, counts = token_dtype(vocab_size), np.zeros(vocab_size, np.int64)
        notes, digest, documents, tokens, repeated = Notes(), hashlib.sha256(), 0, 0, set()
        with ExitStack() as stack:
            token_file = stack.enter_context(open(self.shard.file(".tokens"), "wb"))
            length_file = stack.enter_context(open(self.shard.file(".lengths"), "wb"))
            for batch in _batches(self._training_documents()):
                repeated |= {
                    value
                    for each in batch
                    for text in each.paragraphs
                    if (value := paragraph_hash(text)) in held_out
                }
                encoded = encode_documents(tokenizer, batch, special)
                for document, each in zip(batch, encoded):
                    if not each:
                        notes.add("document without a token of the vocabulary", document.name)
                ids = np.fromiter((i for each in encoded for i in each), dtype)
                lengths = array("q", filter(None, map(len, encoded)))
                counts += np.bincount(ids, minlength=vocab_size)
                token_file.write(ids.data)
                length_file.write(lengths)
                digest.update(ids.data)
                digest.update(lengths)
                documents, tokens = documents + len(lengths), tokens + len(ids)
                report(sum(document.size for document in batch))
        np.save(self.shard.file(".counts.npy"), counts)
        result = {
            "documents": documents,
            "tokens": tokens,
            "notes": notes.kinds,
            "sha256": digest.hexdigest(),
            "repeated": sorted(value.hex() for value in repeated),
        }
        write_whole(self.shard.file(self.SUFFIX), json.dumps(result))

    def _training_documents(self) -> Iterator[Document]:
        for piece in self.shard.pieces:
            for document in Reader(Notes(), self.field, self.wrapped).documents(piece):
                train, _ = divide(document, self.held_out.get(document.name, 0))
                if train is not None:
                    yield train


class _Lowest:
    """The documents with the smallest hashes, up to a number of bytes, but at least one."""

    def __init__(self, largest: int, largest_hash: int) -> None:
        self.largest, self.largest_hash, self.size = largest, largest_hash, 0
        self.heap: list[tuple[int, str, Candidate, Document]] = []  # the largest hash first

    def add(self, document: Document) -> None:
        each = candidate(document)
        full = self.heap and self.size >= self.largest and -each.hash <= self.heap[0][0]
        if full or each.hash > self.largest_hash:
            return
        heapq.heappush(self.heap, (-each.hash, each.name, each, document))
        self.size += each.size
        while len(self.heap) > 1 and self.size - self.heap[0][2].size >= self.largest:
            self.size -= heapq.heappop(self.heap)[2].size

    def write(self, path: Path) -> None:
        lines = [document.to_json() + "\n" for *_, document in sorted(self.heap, key=lambda item: item[2])]
        write_whole(path, "".join(lines))


def encode_documents(tokenizer: Tokenizer, documents: Sequence[Document], ids: SpecialIds) -> list[list[int]]:
    """The token ids of each document, without special tokens.

    In a byte-level vocabulary a word has its mark only after a blank, so a paragraph begins with one there.
    SentencePiece vocabularies have ``<s>`` among their pieces; where a text speaks of it, [UNK] takes its place.
    """
    special = {ids.pad, ids.cls, ids.sep, ids.mask}
    unknown = [] if ids.unk in special else [ids.unk]
    blank = " " if "ByteLevel(add_prefix_space=False" in repr(tokenizer.pre_tokenizer) else ""
    texts = [blank + paragraph for document in documents for paragraph in document.paragraphs]
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    paragraphs = (
        each.ids if special.isdisjoint(each.ids) else _replaced(each.ids, special, unknown)
        for each in encodings
    )
    return [[i for _ in document.paragraphs for i in next(paragraphs)] for document in documents]


def _replaced(ids: Sequence[int], special: set[int], replacement: list[int]) -> list[int]:
    return [each for i in ids for each in (replacement if i in special else [i])]


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The type in which token ids are stored."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def paragraph_hash(paragraph: str) -> bytes:
    """8 bytes that stand for a paragraph."""
    return hashlib.blake2b(paragraph.encode(), digest_size=8).digest()


def special_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of all tokens that are no text."""
    vocabulary = tokenizer.get_vocab()
    ids = special_ids(tokenizer)
    named = {vocabulary[token] for token in all_special(tokenizer) if token in vocabulary}
    return sorted(named | {ids.pad, ids.unk, ids.cls, ids.sep, ids.mask})


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.size
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_hashes(path: Path) -> frozenset[bytes]:
    data = path.read_bytes()
    return frozenset(data[start : start + 8] for start in range(0, len(data), 8))


def read_jsonl(path: Path) -> Iterator[Document]:
    """The documents in a file of lines of `Document.to_json`."""
    with open(path, "rb") as file:
        yield from map(Document.from_json, file)
