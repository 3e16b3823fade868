"""A word per line with its tag in one of several columns, and an empty line between sentences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from electra_kernels.errors import UserError
from electra_kernels.finetuning.example import Example, join_words
from electra_kernels.finetuning.formats.source import (
    Column,
    TextFile,
    as_number,
    check_row,
    column_index,
    split_end,
)

_WORD_HEADERS = {"token", "tokens", "word", "words", "form", "text"}
_TAG_HEADERS = {
    "tag",
    "tags",
    "label",
    "labels",
    "ner",
    "ner_tag",
    "ner_tags",
    "pos",
    "upos",
    "xpos",
    "chunk",
}
_DOCUMENT = "-DOCSTART-"


@dataclass
class Conll:
    """A file that has been read; ``separator`` is between its columns, and ``header`` the number of its header line."""

    file: TextFile
    examples: list[Example]
    separator: str
    header: int | None
    suffix: str = ".conll"

    def with_predictions(self, predicted: Sequence[Sequence[str]]) -> str:
        """The file with one more column: the predicted tags, named "predicted" if there is a header."""
        added = {self.header: "predicted"} if self.header else {}
        for example, tags in zip(self.examples, predicted, strict=True):
            added.update(zip(example.lines, tags, strict=True))
        for tag in added.values():
            if not tag or self.separator in tag or tag.split() != [tag]:
                raise UserError(
                    f"{self.file.path}: the tag {tag!r} cannot be written in a column, should have no blanks"
                )
        lines = []
        for number, line in enumerate(self.file.lines, start=1):
            text, end = split_end(line)
            lines.append(f"{text}{self.separator}{added[number]}{end}" if number in added else line)
        return self.file.mark + "".join(lines)


def read_conll(file: TextFile, column: Column = None, word_column: Column = None) -> Conll:
    """Read columns that are separated by tabs or, if the first row has none, by blanks.

    A line ``-DOCSTART- …`` ends a sentence. A comment begins with ``# `` (or ``#begin``, ``#end``) before the first
    word of a sentence, and has another number of columns than the rows or a tag that no other word has. The first
    line is a header if a column is given by name.

    Args:
        file: the lines.
        column: that of the tags: a name, or a number from 1, or from -1 at the end; by default the last.
        word_column: that of the words; by default the first.

    Raises:
        UserError: a row has another number of columns, no word or no tag; there is no such column; there is no row.
    """
    rows = _Rows(file)
    names = rows.fields(rows.first)
    if len(names) == 1:
        raise file.error(rows.first, "1 column, should have a word and its tag, separated by a tab or blanks")
    tag = _place(column, -1, names, file, "--column")
    word = _place(word_column, 1, names, file, "--text-column")
    is_named = any(each is not None and as_number(each) is None for each in (column, word_column))
    header = rows.first if is_named else None
    if not header and names[word].lower() in _WORD_HEADERS and names[tag].lower() in _TAG_HEADERS:
        found = ", ".join(names)
        raise file.error(
            rows.first, f"looks like a header ({found}), should be a word: give --column {names[tag]}"
        )
    examples = []
    for numbers in rows.sentences(tag, header):
        for number in numbers:
            _check(file, number, rows, {word: "word", tag: "tag"})
        fields = [rows.fields(number) for number in numbers]
        words, tags = (tuple(values[place] for values in fields) for place in (word, tag))
        text, spans = join_words(words)
        examples.append(Example(words, spans, text, numbers[0], tags, lines=tuple(numbers)))
    if not examples:
        raise UserError(f"{file.path}: no sentences")
    return Conll(file, examples, rows.separator or " ", header)


def _check(file: TextFile, number: int, rows: "_Rows", needed: Mapping[int, str]) -> None:
    values = rows.fields(number)
    check_row(file, number, values, len(rows.fields(rows.first)), rows.first)
    for place, what in needed.items():
        if not values[place].strip():
            raise file.error(number, f"column {place + 1} is empty, should be a {what}")


def _place(column: Column, default: int, names: Sequence[str], file: TextFile, option: str) -> int:
    number = default if column is None else as_number(column)
    if number is not None:
        return column_index(number, len(names), file, option)
    if column not in names:
        raise UserError(f'{file.path}: no column "{column}" in its first row ({", ".join(names)})')
    return list(names).index(str(column))


class _Rows:
    """Which lines are rows, and their fields.

    Attributes:
        separator: a tab, or None for any blanks.
        first: number of the first row, which may be a header.
    """

    def __init__(self, file: TextFile) -> None:
        self._file = file
        numbers = [
            n for n, line in enumerate(file.lines, start=1) if line.strip() and not self._is_document(line)
        ]
        certain = [n for n in numbers if not self._may_be_comment(file.lines[n - 1])]
        if not certain:
            raise UserError(f"{file.path}: no sentences")
        self.first = certain[0]
        self.separator = "\t" if "\t" in file.lines[self.first - 1] else None
        self._certain = certain

    def fields(self, number: int) -> list[str]:
        return split_end(self._file.lines[number - 1])[0].split(self.separator)

    def sentences(self, tag: int, header: int | None) -> Iterator[list[int]]:
        """The numbers of the lines of each sentence."""
        count = len(self.fields(self.first))
        rows = [self.fields(number) for number in self._certain if number != header]
        self._tags = {fields[tag] for fields in rows if len(fields) == count}
        self._count, self._tag, self._inside = count, tag, False
        numbered = (
            (n, self._is_word(n, line)) for n, line in enumerate(self._file.lines, start=1) if n != header
        )
        for is_word, group in groupby(numbered, key=lambda pair: pair[1]):
            if is_word:
                yield [number for number, _ in group]

    def _is_word(self, number: int, line: str) -> bool:
        self._inside = (
            bool(line.strip())
            and not self._is_document(line)
            and (self._inside or not self._is_comment(number, line))
        )
        return self._inside

    def _is_comment(self, number: int, line: str) -> bool:
        if not self._may_be_comment(line):
            return False
        fields = self.fields(number)
        return len(fields) != self._count or fields[self._tag] not in self._tags

    @staticmethod
    def _may_be_comment(line: str) -> bool:
        return line.split(None, 1)[0] == "#" or line.startswith(("#begin ", "#end "))

    @staticmethod
    def _is_document(line: str) -> bool:
        return line.startswith(_DOCUMENT)
