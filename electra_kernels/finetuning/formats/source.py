"""The parts that all formats share: the lines of a text file, its examples, and the writing of predictions."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from electra_kernels.data.compression import decompression_errors, open_decompressed
from electra_kernels.errors import UserError
from electra_kernels.finetuning.example import Example

MARK = "\ufeff"  # byte order mark
_COMPRESSED = {".gz": "gz", ".zst": "zst"}

Column = str | int | None


class Source(Protocol):
    """A file that has been read.

    Attributes:
        suffix: of a file in this format.
        examples: its sentences or texts.
    """

    examples: list[Example]

    @property
    def suffix(self) -> str: ...

    def with_predictions(self, predicted: Sequence[Sequence[str]]) -> str:
        """The content of the file with the predictions in it.

        Args:
            predicted: the tags of each sentence; of a text a list with its label.
        """
        ...


@dataclass(frozen=True)
class TextFile:
    """The lines of a text file.

    Attributes:
        path: where it is.
        lines: with their line ends (LF, CR LF or CR) as they are.
        mark: the byte order mark, or nothing.
    """

    path: Path
    lines: tuple[str, ...]
    mark: str = ""

    def error(self, line: int, message: str) -> UserError:
        """A mistake in a line, counted from 1."""
        return UserError(f"{self.path}, line {line}: {message}")


def read_text_file(path: Path) -> TextFile:
    """Read a UTF-8 file, which may be compressed (.gz, .zst).

    Raises:
        UserError: it cannot be read, is not UTF-8 text, or has no content.
    """
    try:
        with open_decompressed(path, _COMPRESSED.get(path.suffix.lower(), "")) as file:
            content = file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or directory") from None
    except decompression_errors() as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path}: cannot be read: {reason}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        _refuse(
            path, content[: error.start], f"not UTF-8 text ({error.reason} at byte {error.start}); convert it"
        )
    if "\0" in text:
        start = text.index("\0")
        _refuse(path, text[:start].encode(), "a NUL character; UTF-16 should be converted to UTF-8")
    if not text.removeprefix(MARK).strip():
        raise UserError(f"{path}: the file is empty")
    mark = MARK if text.startswith(MARK) else ""
    return TextFile(path, tuple(io.StringIO(text.removeprefix(MARK), newline="")), mark)


def _refuse(path: Path, before: bytes, message: str) -> NoReturn:
    line = len(
        (before + b"x").splitlines()
    )  # x: the line of the faulty byte counts, even if it is the first in it
    raise UserError(f"{path}, line {line}: {message}")


def plain_suffix(path: Path) -> str:
    """The suffix in small letters, without that of a compression."""
    name = Path(path.stem) if path.suffix.lower() in _COMPRESSED else path
    return name.suffix.lower()


def split_end(line: str) -> tuple[str, str]:
    """The text of a line, and its end."""
    text = line.rstrip("\r\n")
    return text, line[len(text) :]


def as_number(column: Column) -> int | None:
    """The number of a column if it is given as one, such as 2 or "-1"."""
    if isinstance(column, int):
        return column
    digits = (column or "").removeprefix("-")
    return int(column) if column and digits.isascii() and digits.isdigit() else None


def column_index(number: int, count: int, file: TextFile, option: str) -> int:
    """The place from 0 of a column that is counted from 1, or from -1 at the end.

    Raises:
        UserError: there is no such column.
    """
    if number == 0 or not -count <= number <= count:
        raise UserError(
            f"{option} {number}: {file.path} has {counted(count)}, should be 1 to {count}, or -1 for the last"
        )
    return number - 1 if number > 0 else count + number


def check_row(file: TextFile, line: int, fields: Sequence[str], count: int, first: int) -> None:
    """Check that a row has as many columns as the first one.

    Raises:
        UserError: it has not.
    """
    if len(fields) != count:
        raise file.error(line, f"{counted(len(fields))}, should be {count} as in line {first}")


def counted(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"
