"""Files with labels per word or per text, in any of the formats that people keep them in."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from electra_kernels.errors import UserError
from electra_kernels.files import write_whole
from electra_kernels.finetuning.example import Example, split_text
from electra_kernels.finetuning.formats.conll import read_conll
from electra_kernels.finetuning.formats.conllu import looks_like_conllu, read_conllu
from electra_kernels.finetuning.formats.json_lines import read_json_lines
from electra_kernels.finetuning.formats.saved_datasets import read_saved_dataset
from electra_kernels.finetuning.formats.source import Column, Source, plain_suffix, read_text_file
from electra_kernels.finetuning.formats.tables import read_table
from electra_kernels.finetuning.tags import Scheme, entity_scheme, from_bio, to_bio

__all__ = ["Example", "Labelled", "check_tags", "read_labelled", "split_text"]

Task = Literal["tokens", "sequence"]

_CONLLU, _JSON, _TABLES = (".conllu", ".conll-u"), (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
_OTHER = (".parquet", ".arrow", ".xlsx", ".xls", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".xml", ".ann")
_FORMATS = "CoNLL columns, CoNLL-U, JSON lines, CSV or TSV, or a folder saved by datasets"


@dataclass(frozen=True)
class Labelled:
    """A labelled file.

    Attributes:
        path: where it is.
        task: "tokens", a tag per word, or "sequence", a label per text.
        examples: at least one. Tags of entities are in BIO and well formed, whatever scheme the file has.
        source: the file in its format.
        scheme: that in which the file writes entities, or None if its tags are none.
        notes: what the user should know about the file, one line each.
    """

    path: Path
    task: Task
    examples: Sequence[Example]
    source: Source
    scheme: Scheme | None = None
    notes: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """The suffix of a file that `write` writes."""
        return self.source.suffix

    def write(self, predicted: Sequence[Sequence[str]] | Sequence[str], path: Path) -> None:
        """Write the file again with predictions, in its own format and scheme, whole or not at all.

        CoNLL, CSV and TSV get one more column, CoNLL-U the tags in their column, JSON lines one more field "predicted";
        everything else stays as it is, byte for byte. A folder of datasets becomes JSON lines. The result is not
        compressed.

        Args:
            predicted: tags of the words of each sentence, or the label of each text.
            path: of the new file.

        Raises:
            OSError: the file cannot be written.
            UserError: a tag cannot be written in this format.
            ValueError: the number of predictions is not that of the words or texts.
        """
        rows: list[Sequence[str]] = [[row] if isinstance(row, str) else row for row in predicted]
        sizes = [len(example.words) if self.task == "tokens" else 1 for example in self.examples]
        if [len(row) for row in rows] != sizes:
            raise ValueError(
                f"predicted: {sum(map(len, rows))} for {sum(sizes)} of {self.path}, should be one for each"
            )
        if self.scheme is not None:
            rows = [from_bio(row, self.scheme) for row in rows]
        write_whole(path, self.source.with_predictions(rows))


def read_labelled(path: Path, *, task: str, column: Column = None, text_column: Column = None) -> Labelled:
    """Read a labelled file. Its format follows from its suffix (.gz and .zst are left out) or else its content.

    Args:
        path: a file, or a folder saved by datasets.
        task: "tokens" or "sequence".
        column: name or number of the column or field with the labels. Numbers count from 1, or from -1 at the end.
        text_column: that with the words or the text.

    Raises:
        UserError: the file cannot be read, or has a mistake; the message has the file and the line.
        ValueError: there is no such task.
    """
    if task not in get_args(Task):
        raise ValueError(f'task: "{task}" should be "tokens" or "sequence"')
    source = _read(Path(path), task, column, text_column)
    labelled = Labelled(Path(path), "tokens" if task == "tokens" else "sequence", source.examples, source)
    return _with_entities(labelled) if task == "tokens" else labelled


def check_tags(test: Labelled, known: Collection[str]) -> None:
    """Check that all tags or labels of a test file are those of the training.

    Raises:
        UserError: one is not; the message has the file and the line.
    """
    unit = "line" if isinstance(test.path, Path) and test.path.is_file() else "row"
    for example in test.examples:
        labels = example.tags if example.tags is not None else (example.label,)
        for place, label in enumerate(labels):
            if label is not None and label not in known:
                line = example.lines[place] if example.lines else example.line
                names = ", ".join(sorted(known)[:12]) + (", …" if len(known) > 12 else "")
                what = "tag" if test.task == "tokens" else "label"
                raise UserError(
                    f'{test.path}, {unit} {line}: {what} "{label}" does not occur in the training ({names})'
                )


def _read(path: Path, task: str, column: Column, text_column: Column) -> Source:
    if path.is_dir():
        return read_saved_dataset(path, task, column, text_column)
    suffix = plain_suffix(path)
    if suffix in _OTHER and path.exists():
        raise UserError(f"{path}: {suffix} should be {_FORMATS}")
    file = read_text_file(path)
    first = next(line for line in file.lines if line.strip())
    if suffix in _JSON or (suffix not in (*_CONLLU, *_TABLES) and first.lstrip().startswith('{"')):
        return read_json_lines(file, task, column, text_column)
    if task == "sequence":
        if suffix not in _TABLES:
            raise UserError(
                f"{path}: {suffix or 'a file without suffix'} should be .jsonl, .csv or .tsv for a label per text"
            )
        return read_table(file, suffix == ".tsv", column, text_column)
    if suffix == ".csv":
        raise UserError(
            f"{path}: CSV has a label per text (--task sequence); tags of words should be .tsv or .jsonl"
        )
    if suffix in _CONLLU or looks_like_conllu(file):
        return read_conllu(file, column, text_column)
    return read_conll(file, column, text_column)


def _with_entities(labelled: Labelled) -> Labelled:
    """Entities in BIO, and a note about tags that had to be repaired."""
    tags = [example.tags or () for example in labelled.examples]
    scheme = entity_scheme(tags)
    if scheme is None:
        return labelled
    examples, repairs, first = [], 0, 0
    for example, before in zip(labelled.examples, tags):
        after, count = to_bio(before, scheme)
        examples.append(replace(example, tags=after))
        if count and not repairs:
            first = example.line
        repairs += count
    notes: tuple[str, ...] = ()
    if scheme != "BIO":
        notes = (f"{labelled.path}: the entities are in {scheme}, read as BIO",)
    if repairs:
        notes += (
            f"{labelled.path}: {repairs} tags continue an entity that does not begin (the first near line {first}); "
            "each is read as its beginning",
        )
    return replace(labelled, examples=examples, scheme=scheme, notes=notes)
