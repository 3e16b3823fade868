"""CoNLL-U: ten columns per word, from the Universal Dependencies."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from electra_kernels.errors import UserError
from electra_kernels.finetuning.example import Example, find_words
from electra_kernels.finetuning.formats.source import Column, TextFile, as_number, column_index, split_end

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_MAY_BE_EMPTY = ("feats", "deps", "misc")  # in which _ is a value; elsewhere it says that the word has none
_ID = re.compile(r"(\d+)(?:-(\d+)|\.\d+)?")

Row = tuple[int, list[str]]  # number of the line, and its fields


@dataclass
class Conllu:
    """A file that has been read; ``column`` is the place of the tags."""

    file: TextFile
    examples: list[Example]
    column: int
    suffix: str = ".conllu"

    def with_predictions(self, predicted: Sequence[Sequence[str]]) -> str:
        """A copy of the file with the predicted tags in the column."""
        lines = list(self.file.lines)
        for example, tags in zip(self.examples, predicted, strict=True):
            for number, tag in zip(example.lines, tags, strict=True):
                if not tag or set(tag) & set("\t\r\n"):
                    raise UserError(f"{self.file.path}: the tag {tag!r} cannot be written in a column")
                text, end = split_end(lines[number - 1])
                fields = text.split("\t")
                fields[self.column] = tag
                lines[number - 1] = "\t".join(fields) + end
        return self.file.mark + "".join(lines)


def looks_like_conllu(file: TextFile) -> bool:
    """Whether the first row has ten columns separated by tabs, of which the first is an id."""
    for line in file.lines:
        if line.strip() and not line.startswith("#"):
            fields = line.split("\t")
            return len(fields) == len(COLUMNS) and bool(_ID.fullmatch(fields[0]))
    return False


def read_conllu(file: TextFile, column: Column = None, word_column: Column = None) -> Conllu:
    """Read words with the tags of a column; multiword tokens (3-4) and empty nodes (5.1) are not words.

    The text is that of ``# text =`` or, where that does not fit the words, follows from SpaceAfter=No. A word of a
    multiword token stands in the text where that token stands.

    Args:
        file: the lines.
        column: name or number of the column with the tags; by default upos.
        word_column: of the words; by default form.

    Raises:
        UserError: a row has not ten columns, no such id or no tag; there is no such column; there is no sentence.
    """
    place, word_place = (
        _place(given, file, option)
        for given, option in ((column or "upos", "--column"), (word_column or "form", "--text-column"))
    )
    examples = []
    for comments, rows in _sentences(file):
        words = [(number, fields) for number, fields in rows if fields[0].isdigit()]
        if not words:
            raise file.error(rows[0][0], "a sentence without words")
        for number, fields in words:
            if fields[place] == "_" and COLUMNS[place] not in _MAY_BE_EMPTY:
                raise file.error(number, f"no tag: {COLUMNS[place]} is _")
        text, spans = _text(comments, rows, word_place)
        examples.append(
            Example(
                tuple(fields[word_place] for _, fields in words),
                spans,
                text,
                words[0][0],
                tuple(fields[place] for _, fields in words),
                lines=tuple(number for number, _ in words),
            )
        )
    if not examples:
        raise UserError(f"{file.path}: no sentences")
    return Conllu(file, examples, place)


def _place(column: Column, file: TextFile, option: str) -> int:
    number = as_number(column)
    if number is not None:
        return column_index(number, len(COLUMNS), file, option)
    if str(column).lower() not in COLUMNS:
        raise UserError(f'{file.path}: no column "{column}" in CoNLL-U ({", ".join(COLUMNS)})')
    return COLUMNS.index(str(column).lower())


def _sentences(file: TextFile) -> Iterator[tuple[list[str], list[Row]]]:
    """Comments and rows of each sentence."""
    comments: list[str] = []
    rows: list[Row] = []
    for number, line in enumerate((*file.lines, ""), start=1):
        text, _ = split_end(line)
        if not text.strip():
            if rows:
                yield comments, rows
            comments, rows = [], []
        elif text.startswith("#") and not rows:
            comments.append(text)
        else:
            fields = text.split("\t")
            if len(fields) != len(COLUMNS):
                raise file.error(
                    number, f"{len(fields)} columns separated by tabs, should be {len(COLUMNS)} in CoNLL-U"
                )
            if not all(fields):
                raise file.error(number, f"column {fields.index('') + 1} is empty, should be _ at least")
            if not _ID.fullmatch(fields[0]):
                raise file.error(number, f"the id is {fields[0]!r}, should be such as 3, 3-4 or 3.1")
            rows.append((number, fields))


def _text(
    comments: Sequence[str], rows: Sequence[Row], word_place: int
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of a sentence, and where each word stands in it."""
    surface: list[str] = []  # what is written: multiword tokens, and words outside of them
    gaps: list[str] = []  # what follows each
    owner: list[int] = []  # the place in `surface` of each word
    covered = 0  # last id in a multiword token
    for _, fields in rows:
        match = _ID.fullmatch(fields[0])
        assert match is not None
        if "." in fields[0]:
            continue
        is_multiword = match[2] is not None
        if is_multiword or int(match[1]) > covered:
            surface.append(fields[1] if is_multiword else fields[word_place])
            gaps.append("" if "SpaceAfter=No" in fields[9].split("|") else " ")
            covered = int(match[2]) if is_multiword else covered
        if not is_multiword:
            owner.append(len(surface) - 1)
    text = next((line.partition("=")[2].strip() for line in comments if re.match(r"#\s*text\s*=", line)), "")
    spans = find_words(surface, text)
    if spans is None:
        gaps[-1] = ""
        text = "".join(part for pair in zip(surface, gaps) for part in pair)
        starts = [sum(map(len, surface[:i])) + sum(map(len, gaps[:i])) for i in range(len(surface))]
        spans = tuple((start, start + len(word)) for start, word in zip(starts, surface))
    return text, tuple(spans[place] for place in owner)
