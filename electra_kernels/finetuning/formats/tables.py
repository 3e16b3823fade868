"""CSV and TSV: a row per text, with its label in a column."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from electra_kernels.errors import UserError
from electra_kernels.finetuning.example import Example, split_text
from electra_kernels.finetuning.formats.json_lines import DEFAULTS, PREDICTED
from electra_kernels.finetuning.formats.source import (
    Column,
    TextFile,
    as_number,
    check_row,
    column_index,
    split_end,
)


@dataclass(frozen=True)
class _Record:
    fields: list[str]
    first: int  # number of its first line
    last: int


@dataclass
class Table:
    """A file that has been read; ``last`` has the last line of each example."""

    file: TextFile
    examples: list[Example]
    last: list[int]
    header: int | None  # last line of the header
    delimiter: str
    quoting: Literal[0, 3]  # QUOTE_MINIMAL, or QUOTE_NONE: quotes are letters

    @property
    def suffix(self) -> str:
        return ".tsv" if self.delimiter == "\t" else ".csv"

    def with_predictions(self, predicted: Sequence[Sequence[str]]) -> str:
        """The file with one more column, named "predicted" if there is a header."""
        added = {self.header: PREDICTED} if self.header else {}
        added.update((number, label) for number, (label,) in zip(self.last, predicted, strict=True))
        lines = list(self.file.lines)
        for number, label in added.items():
            text, end = split_end(lines[number - 1])
            lines[number - 1] = f"{text}{self.delimiter}{self._written(label)}{end}"
        return self.file.mark + "".join(lines)

    def _written(self, label: str) -> str:
        row = io.StringIO()
        try:
            csv.writer(row, delimiter=self.delimiter, quoting=self.quoting, lineterminator="").writerow(
                [label]
            )
        except csv.Error as error:
            raise UserError(
                f"{self.file.path}: the label {label!r} cannot be written in a column: {error}"
            ) from None
        return row.getvalue()


def read_table(file: TextFile, is_tsv: bool, column: Column = None, text_column: Column = None) -> Table:
    """Read texts and labels.

    The columns are separated by tabs in TSV; in CSV by commas or, where the first line has none, by semicolons. Fields
    may be quoted and then have several lines. In TSV whose quotes are no quotes, because they do not come in pairs,
    they are letters as others.

    Args:
        file: the lines.
        is_tsv: whether tabs separate the columns.
        column: that of the label: a name in the header (by default "label") or a number.
        text_column: that of the text: by default "text". If both are numbers there is no header.

    Raises:
        UserError: a row has another number of columns, no text or no label; there is no such column; there is no row.
    """
    delimiter = "\t" if is_tsv else ";" if "," not in file.lines[0] and ";" in file.lines[0] else ","
    records, quoting = _records(file, delimiter)
    wanted = [
        given if given is not None else name
        for given, name in zip((text_column, column), DEFAULTS["sequence"])
    ]
    is_named = any(as_number(each) is None for each in wanted)
    header, rows = (records[0], records[1:]) if is_named else (None, records)
    count = len(records[0].fields)
    text, label = (
        _place(each, records[0], file, option) for each, option in zip(wanted, ("--text-column", "--column"))
    )
    for row in rows:
        check_row(file, row.first, row.fields, count, records[0].first)
        for place, what in ((text, "text"), (label, "label")):
            if not row.fields[place].strip():
                raise file.error(row.first, f"no {what} in column {place + 1}")
    if not rows:
        raise UserError(f"{file.path}: no row after the header")
    if header is None:
        _check_no_header(file, rows, label)
    examples = [_example(row, text, label) for row in rows]
    return Table(
        file, examples, [row.last for row in rows], header.last if header else None, delimiter, quoting
    )


def _example(row: _Record, text: int, label: int) -> Example:
    example = split_text(row.fields[text], row.first)
    return Example(example.words, example.spaces, example.text, row.first, label=row.fields[label])


def _place(column: Column, first: _Record, file: TextFile, option: str) -> int:
    number = as_number(column)
    if number is not None:
        return column_index(number, len(first.fields), file, option)
    if column not in first.fields:
        raise UserError(
            f'{file.path}: no column "{column}" in the header ({", ".join(first.fields)}); name it with {option}'
        )
    return first.fields.index(str(column))


def _records(file: TextFile, delimiter: str) -> tuple[list[_Record], Literal[0, 3]]:
    """The rows that are not blank, and whether quotes are quotes (`csv.QUOTE_MINIMAL` or `csv.QUOTE_NONE`)."""
    plain = [n for n, line in enumerate(file.lines, start=1) if line.strip()]
    tabs = {file.lines[n - 1].count("\t") for n in plain}
    literal = delimiter == "\t" and len(tabs) == 1
    try:
        records = _parse(file, delimiter, csv.QUOTE_MINIMAL)
    except UserError:
        if not literal:
            raise
        records = []
    if literal and len(records) != len(plain):
        return _parse(file, delimiter, csv.QUOTE_NONE), csv.QUOTE_NONE
    return records, csv.QUOTE_MINIMAL


def _parse(file: TextFile, delimiter: str, quoting: Literal[0, 3]) -> list[_Record]:
    records: list[_Record] = []
    reader = csv.reader(file.lines, delimiter=delimiter, quoting=quoting, strict=True)
    before = 0
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                records.append(_Record(fields, before + 1, reader.line_num))
            before = reader.line_num
    except csv.Error as error:
        raise file.error(before + 1, f"not CSV: {error}") from None
    return records


def _check_no_header(file: TextFile, rows: Sequence[_Record], label: int) -> None:
    """Refuse a header that would pass as a text: a first label that no other row has, though others repeat."""
    counts = Counter(row.fields[label] for row in rows)
    first = rows[0].fields[label]
    if len(rows) > 2 and counts[first] == 1 and all(n > 1 for name, n in counts.items() if name != first):
        names = ", ".join(rows[0].fields)
        raise file.error(
            rows[0].first,
            f"looks like a header ({names}), should be a text: give --column and --text-column as names",
        )
