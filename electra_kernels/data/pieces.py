"""An input → pieces of it, which several processes can read."""

import hashlib
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import BinaryIO

from electra_kernels.data.inputs import Input
from electra_kernels.data.lines import LONGEST, cut_place
from electra_kernels.errors import UserError

_EMPTY_LINE = re.compile(rb"\n[ \t\r]*\n|\r[ \t]*\r(?!\n)")


@dataclass(frozen=True)
class Piece:
    """A part of an input that one process reads.

    Attributes:
        input: the file.
        start, stop: bytes of an uncompressed file, row groups of a parquet file or rows of a dataset; stop is None for
            a whole file.
        text_size: estimate of the text in bytes.
    """

    input: Input
    start: int
    stop: int | None
    text_size: int


def split_input(source: Input, size: int) -> list[Piece]:
    """Cut an input into pieces of about ``size`` bytes of text. Compressed text is one piece.

    Every document is in exactly one piece.
    """
    whole = Piece(source, 0, None, source.text_size)
    if source.text_size <= size or source.compression or source.kind == "documents":
        return [whole]
    if source.kind in ("text", "json"):
        with open(source.path, "rb") as file:
            boundary = _text_boundary if source.kind == "text" else _line_boundary
            count = -(-source.size // size)
            places = {boundary(file, source.size * i // count) for i in range(1, count)}
        edges = sorted({0, source.size} | {place for place in places if place < source.size})
    else:
        total = _table_length(source)
        count = min(total, -(-source.text_size // size))
        edges = sorted({total * i // max(count, 1) for i in range(count + 1)})
    share = source.text_size / max(edges[-1], 1)
    return [
        replace(whole, start=start, stop=stop, text_size=int((stop - start) * share))
        for start, stop in pairwise(edges)
    ]


def hash_piece(piece: Piece) -> str:
    """SHA-256 of the bytes of a piece. The hash of a table covers the whole file and belongs to its first piece."""
    digest = hashlib.sha256()
    source = piece.input
    files = sorted(source.path.glob("*.arrow")) if source.kind == "dataset" else [source.path]
    by_bytes = source.kind in ("text", "json") and not source.compression
    if piece.start and not by_bytes:
        return ""
    for path in files:
        with open(path, "rb") as file:
            file.seek(piece.start)
            left = piece.stop - piece.start if by_bytes and piece.stop is not None else 1 << 62
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def _table_length(source: Input) -> int:
    """Row groups of a parquet file, rows of a dataset."""
    if source.kind == "parquet":
        import pyarrow.parquet

        try:
            return int(pyarrow.parquet.ParquetFile(source.path).num_row_groups)
        except Exception as error:  # pyarrow has several
            raise UserError(f"{source.path}: cannot be read: {error}") from error
    import datasets

    return len(datasets.load_from_disk(str(source.path)))


def _text_boundary(file: BinaryIO, offset: int) -> int:
    """The first place from ``offset`` on where a document may begin: after an empty line, if there is one near."""
    file.seek(offset)
    window = file.read(LONGEST)
    if empty := _EMPTY_LINE.search(window):
        return offset + empty.end()
    if len(window) < LONGEST:  # the last document
        return offset + len(window)
    line_end = window.find(b"\n") + 1
    return offset + (line_end or cut_place(window))


def _line_boundary(file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    file.readline()
    return file.tell()
