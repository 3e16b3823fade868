"""An input file → pieces for parallel reading → documents, one at a time.

Memory is bounded whatever a file looks like: a line or a document that exceeds `LONGEST` continues as another one.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, BinaryIO, cast

from electra_kernels.data.document import Document
from electra_kernels.data.inputs import Input, decompression_errors, open_decompressed
from electra_kernels.data.notes import Notes
from electra_kernels.errors import UserError

LONGEST = 1 << 20  # bytes of a line of plain text, and of a document
_EMPTY_LINE = re.compile(rb"\n[ \t\r]*\n")
_MARK = b"\xef\xbb\xbf"
_ROWS = 256  # rows of a table that are read at once


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


@dataclass
class Reader:
    """How documents are read, and what was noticed on the way.

    Attributes:
        notes: what was passed over.
        field: name of the field, or column, with the text.
        wrapped: whether lines are broken at a width, so that an empty line separates paragraphs, not documents.
        lines, ragged: lines of plain text that another line of the block follows, and how many of them look as if
            they had been broken at a width.
        position: bytes of text that have been read.
    """

    notes: Notes
    field: str = "text"
    wrapped: bool = False
    lines: int = 0
    ragged: int = 0
    position: int = 0

    def documents(self, piece: Piece) -> Iterator[Document]:
        """The documents of a piece, without empty ones.

        Raises:
            UserError: the file cannot be read or decoded; the message has the file and the place.
        """
        path = piece.input.path
        try:
            yield from getattr(self, f"_{piece.input.kind}")(piece)
        except UnicodeDecodeError as error:
            where = "of the decompressed text" if piece.input.compression else ""
            byte = f"byte {error.start} {where}".rstrip()
            raise UserError(f"{path}: not UTF-8 text ({error.reason} at {byte}); convert it") from error
        except decompression_errors() as error:
            raise UserError(f"{path}: cannot be read: {error}") from error

    def _text(self, piece: Piece) -> Iterator[Document]:
        with open_decompressed(piece.input.path, piece.input.compression) as file:
            lines = self._count_lines(piece.start, _lines(file, piece.start, piece.stop))
            for offset, paragraphs in _wrapped_blocks(lines) if self.wrapped else _blocks(lines):
                yield Document(f"{piece.input.name}#{offset}", paragraphs)

    def _count_lines(self, first: int, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        before = ""
        for offset, line in lines:
            self.position = offset - first
            stripped = line.strip()
            if stripped and before:
                self.lines += 1
                self.ragged += 30 <= len(before) <= 120 and (before[-1].isalnum() or before[-1] in ",;-")
            before = stripped
            yield offset, line

    def _json(self, piece: Piece) -> Iterator[Document]:
        with open_decompressed(piece.input.path, piece.input.compression) as file:
            for offset, number, line in _json_lines(file, piece):
                self.position += len(line)
                where = f"{piece.input.path}, {number}"
                text = self._field(json_record(line, where, offset), where)
                yield from self._documents_of(f"{piece.input.name}#{offset}", text, where)

    def _field(self, record: Any, where: str) -> str | None:
        if isinstance(record, dict) and self.field in record:
            text = record[self.field]
            if text is None:
                self.notes.add("record without text (null)", where)
                return None
            if isinstance(text, str):
                return text
        raise UserError(f'{where}: no field "{self.field}" that holds a string (--field names another)')

    def _documents_of(self, name: str, text: str | None, where: str) -> Iterator[Document]:
        """The document of a record, in parts if it is long."""
        if text is None:
            return
        try:
            text.encode()
        except UnicodeEncodeError:
            self.notes.add("record with a lone surrogate, replaced by U+FFFD", where)
            text = re.sub("[\ud800-\udfff]", "\ufffd", text)
        lines = ((0, line) for line in text.splitlines())
        empty = True
        for index, (_, paragraphs) in enumerate(
            _wrapped_blocks(lines) if self.wrapped else _long_blocks(lines)
        ):
            empty = False
            yield Document(f"{name}.{index}" if index else name, paragraphs)
        if empty:
            self.notes.add("record with an empty text", where)

    def _parquet(self, piece: Piece) -> Iterator[Document]:
        import pyarrow.parquet

        with _seekable(piece.input) as source:
            file = pyarrow.parquet.ParquetFile(source)
            _check_column(piece.input, file.schema_arrow.names, self.field)
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            groups = range(piece.start, len(sizes) if piece.stop is None else piece.stop)
            batches = file.iter_batches(_ROWS, row_groups=list(groups), columns=[self.field])
            texts = (text for batch in batches for text in batch.column(0).to_pylist())
            yield from self._rows(piece, sum(sizes[: piece.start]), texts)

    def _dataset(self, piece: Piece) -> Iterator[Document]:
        import datasets

        table = datasets.load_from_disk(str(piece.input.path))
        _check_column(piece.input, table.column_names, self.field)
        table = table.select_columns([self.field])
        stop = len(table) if piece.stop is None else piece.stop
        parts = (range(row, min(row + _ROWS, stop)) for row in range(piece.start, stop, _ROWS))
        texts = (text for part in parts for text in table[part.start : part.stop][self.field])
        yield from self._rows(piece, piece.start, texts)

    def _rows(self, piece: Piece, first: int, texts: Iterable[Any]) -> Iterator[Document]:
        for row, text in enumerate(texts, start=first):
            where = f"{piece.input.path}, row {row}"
            text = self._field({self.field: text}, where)
            self.position += len(text or "")
            yield from self._documents_of(f"{piece.input.name}#{row}", text, where)

    def _documents(self, piece: Piece) -> Iterator[Document]:
        with open_decompressed(piece.input.path, piece.input.compression) as file:
            for line in file:
                self.position += len(line)
                try:
                    yield Document.from_json(line)
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(f"{piece.input.path}: not readable ({error}); delete it") from error


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


def json_record(line: bytes, where: str, offset: int) -> Any:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise UnicodeDecodeError(
            "utf-8", b"", offset + error.start, offset + error.end, error.reason
        ) from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error


def paragraphs_of(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())


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


def _seekable(source: Input) -> BinaryIO:
    """A parquet file is read from its end, so a compressed one is first decompressed into a temporary file."""
    file = open_decompressed(source.path, source.compression)
    if not source.compression:
        return file
    copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 -- the caller closes it
    with file:
        shutil.copyfileobj(file, copy)
    copy.seek(0)
    return copy


def _check_column(source: Input, names: list[str], column: str) -> None:
    if column not in names:
        raise UserError(
            f'{source.path}: no column "{column}"; it has {", ".join(names)} (--field names another)'
        )


def _text_boundary(file: BinaryIO, offset: int) -> int:
    """The first place from ``offset`` on where a document may begin: after an empty line, if there is one near."""
    file.seek(offset)
    window = file.read(LONGEST)
    empty = _EMPTY_LINE.search(window)
    if empty:
        return offset + empty.end()
    if b"\n" in window:
        return offset + window.index(b"\n") + 1
    return offset + _cut(window) if len(window) == LONGEST else offset + len(window)


def _line_boundary(file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    file.readline()
    return file.tell()


def _cut(line: bytes) -> int:
    """Where to cut a long line: after a blank or, without one, between two characters."""
    place = line.rfind(b" ") + 1
    if not place:
        place = len(line) - 1
        while place > 1 and line[place] & 0xC0 == 0x80:  # inside a character
            place -= 1
    return place


def _raw_lines(file: BinaryIO, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """Lines of at most LONGEST bytes with their offsets; an overlong one is cut."""
    if start:
        file.seek(start)
    position, rest = start, b""
    while True:
        limit = LONGEST - len(rest)
        if stop is not None:
            limit = min(limit, stop - position - len(rest))
        line = rest + (file.readline(limit) if limit > 0 else b"")
        if not line:
            return
        cut = _cut(line) if len(line) >= LONGEST and not line.endswith(b"\n") else len(line)
        line, rest = line[:cut], line[cut:]
        yield position, line
        position += cut


def _lines(file: BinaryIO, start: int, stop: int | None) -> Iterator[tuple[int, str]]:
    for offset, line in _raw_lines(file, start, stop):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            begin = offset + error.start
            raise UnicodeDecodeError("utf-8", b"", begin, begin + 1, error.reason) from None
        yield offset, text.removeprefix("\ufeff") if offset == 0 else text


def _json_lines(file: BinaryIO, piece: Piece) -> Iterator[tuple[int, str, bytes]]:
    """Offset, place in words, and content of the lines that are not blank."""
    file.seek(piece.start) if piece.start else None
    position = piece.start
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(_MARK) if position == 0 else line
        if content.strip():
            place = f"line {number}" if piece.start == 0 else f"line at byte {position}"
            yield position, place, content
        position += len(line)
        if piece.stop is not None and position >= piece.stop:
            return


def _blocks(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Blocks of lines between empty lines; the offset of the first line, and each line as a paragraph."""
    block: list[str] = []
    first, size = 0, 0
    for offset, line in lines:
        paragraphs = list(paragraphs_of(line))
        if block and (not paragraphs or size + len(line) > LONGEST):
            yield first, tuple(block)
            block, size = [], 0
        if paragraphs:
            first = first if block else offset
            block += paragraphs
            size += len(line)
    if block:
        yield first, tuple(block)


def _long_blocks(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The paragraphs of one document, cut where it becomes too long. Empty lines do not matter."""
    return _blocks((offset, line) for offset, line in lines if line.strip())


def _wrapped_blocks(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """A whole file as one document, cut where it becomes too long; the lines of a block form one paragraph."""
    joined = ((offset, " ".join(block)) for offset, block in _blocks(lines))
    return _long_blocks(joined)
