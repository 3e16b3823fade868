"""A piece of an input → documents, one at a time."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from electra_kernels.data.compression import decompression_errors, open_decompressed
from electra_kernels.data.document import Document
from electra_kernels.data.inputs import Input
from electra_kernels.data.lines import Line, blocks, json_lines, lines, long_blocks, wrapped_blocks
from electra_kernels.data.notes import Notes
from electra_kernels.data.pieces import Piece
from electra_kernels.errors import UserError

_ROWS = 256  # rows of a table that are read at once


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
        except Exception as error:  # pyarrow and datasets raise many kinds
            if isinstance(error, UserError) or piece.input.kind not in ("parquet", "dataset"):
                raise
            raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error

    def _text(self, piece: Piece) -> Iterator[Document]:
        with open_decompressed(piece.input.path, piece.input.compression) as file:
            watched = self._watch(piece, lines(file, piece.start, piece.stop))
            for offset, paragraphs in wrapped_blocks(watched) if self.wrapped else blocks(watched):
                yield Document(f"{piece.input.name}#{offset}", paragraphs)

    def _watch(self, piece: Piece, lines: Iterable[Line]) -> Iterator[Line]:
        before = ""
        for offset, line in lines:
            self.position = offset - piece.start
            line = self._without_nul(line, f"{piece.input.path}, byte {offset}")
            stripped = line.strip()
            if stripped and before:
                self.lines += 1
                self.ragged += 30 <= len(before) <= 120 and (before[-1].isalnum() or before[-1] in ",;-")
            before = stripped
            yield offset, line

    def _json(self, piece: Piece) -> Iterator[Document]:
        with open_decompressed(piece.input.path, piece.input.compression) as file:
            for offset, place, line in json_lines(file, piece.start, piece.stop):
                self.position += len(line)
                where = f"{piece.input.path}, {place}"
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where}: not JSON: {error}") from error
                yield from self._documents_of(
                    f"{piece.input.name}#{offset}", self._field(record, where), where
                )

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
        text = self._without_nul(text, where)
        cut = wrapped_blocks if self.wrapped else long_blocks
        parts = cut((0, line) for line in text.splitlines())
        index = -1
        for index, (_, paragraphs) in enumerate(parts):
            yield Document(f"{name}.{index}" if index else name, paragraphs)
        if index < 0:
            self.notes.add("record with an empty text", where)

    def _without_nul(self, text: str, where: str) -> str:
        if "\0" not in text:
            return text
        self.notes.add("text with NUL characters, which are left out (UTF-16 should be UTF-8)", where)
        return text.replace("\0", "")

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
