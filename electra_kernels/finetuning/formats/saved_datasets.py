"""A folder that `datasets.Dataset.save_to_disk` wrote."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_kernels.errors import UserError
from electra_kernels.finetuning.example import Example
from electra_kernels.finetuning.formats.json_lines import DEFAULTS, PREDICTED, example_of
from electra_kernels.finetuning.formats.source import Column


@dataclass
class SavedDataset:
    """A dataset that has been read; predictions are written as JSON lines with ``names`` of words and labels."""

    task: str
    examples: list[Example]
    names: tuple[str, str]
    suffix: str = ".jsonl"

    def with_predictions(self, predicted: Sequence[Sequence[str]]) -> str:
        """A JSON object per row: words and tags, or text and label, as names, and the predictions."""
        lines = []
        for example, labels in zip(self.examples, predicted, strict=True):
            is_tokens = self.task == "tokens"
            values = (example.words, example.tags) if is_tokens else (example.text, example.label)
            record = dict(zip((*self.names, PREDICTED), (*values, list(labels) if is_tokens else labels[0])))
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        return "".join(lines)


def read_saved_dataset(
    path: Path, task: str, column: Column = None, text_column: Column = None
) -> SavedDataset:
    """Read a dataset; integers of a ClassLabel become names.

    Args:
        path: a folder of one split.
        task: "tokens" or "sequence".
        column, text_column: as in `read_json_lines`.

    Raises:
        UserError: the package datasets is not installed; the folder holds no dataset or several splits; there is no
            such column; a row has no label.
    """
    table = _load(path)
    chosen = (str(text_column or DEFAULTS[task][0]), str(column or DEFAULTS[task][1]))
    for name, option in zip(chosen, ("--text-column", "--column")):
        if name not in table.column_names:
            raise UserError(
                f'{path}: no column "{name}" ({", ".join(table.column_names)}); name it with {option}'
            )
    table = table.select_columns(list(dict.fromkeys(chosen)))
    feature = table.features[chosen[1]]
    label = getattr(feature, "feature", feature) if task == "tokens" else feature
    names_of = getattr(label, "names", None)  # those of a ClassLabel
    examples = []
    for number, row in enumerate(table, start=1):
        try:
            named = row | {chosen[1]: _named(row[chosen[1]], names_of)}
            examples.append(example_of(named, number, task, chosen))
        except ValueError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
    if not examples:
        raise UserError(f"{path}: the dataset is empty")
    return SavedDataset(task, examples, chosen)


def _load(path: Path) -> Any:
    splits = path / "dataset_dict.json"
    if splits.is_file():
        names = ", ".join(json.loads(splits.read_text(encoding="utf-8"))["splits"])
        raise UserError(
            f"{path}: holds the splits {names}, should be one of them, such as {path / names.split(', ')[0]}"
        )
    if not (path / "dataset_info.json").is_file():
        raise UserError(
            f"{path}: a folder without dataset_info.json, should be a file or a folder saved by datasets"
        )
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{path}: reading it needs the package datasets (pip install datasets)")
    import datasets

    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # datasets and pyarrow raise many kinds
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error


def _named(value: Any, names: Sequence[str] | None) -> Any:
    """A label or a list of labels by name."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    if not 0 <= value < len(names):
        raise ValueError(f"label {value}, should be 0 to {len(names) - 1}; -1 is no label")
    return names[value]
