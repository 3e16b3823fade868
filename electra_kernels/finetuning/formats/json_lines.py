"""An object per line: ``{"tokens": […], "tags": […]}`` or ``{"text": …, "label": …}``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from electra_kernels.finetuning.example import Example, find_words, join_words, split_text
from electra_kernels.finetuning.formats.source import Column, TextFile

PREDICTED = "predicted"
DEFAULTS = {
    "tokens": ("tokens", "tags"),
    "sequence": ("text", "label"),
}  # fields of the words or text, and the labels


@dataclass
class JsonLines:
    """A file that has been read; ``numbers`` are the labels that it has as integers."""

    file: TextFile
    task: str
    examples: list[Example]
    numbers: Mapping[str, int]
    suffix: str = ".jsonl"

    def with_predictions(self, predicted: Sequence[Sequence[str]]) -> str:
        """The same objects with one more field "predicted", which replaces one that they have already."""
        lines = list(self.file.lines)
        for example, labels in zip(self.examples, predicted, strict=True):
            values = [self.numbers.get(label, label) for label in labels]
            value = json.dumps(values if self.task == "tokens" else values[0], ensure_ascii=False)
            line = lines[example.line - 1]
            record = json.loads(line)
            if PREDICTED in record:
                record[PREDICTED] = json.loads(value)
                whole = json.dumps(record, ensure_ascii=False)
            else:
                whole = f'{line.rstrip()[:-1].rstrip()}, "{PREDICTED}": {value}}}'
            lines[example.line - 1] = whole + line[len(line.rstrip()) :]
        return self.file.mark + "".join(lines)


def read_json_lines(
    file: TextFile, task: str, column: Column = None, text_column: Column = None
) -> JsonLines:
    """Read objects. Labels are strings or integers; the text of words is the field "text" where that fits them.

    Args:
        file: the lines; blank ones are passed over.
        task: "tokens" or "sequence".
        column: field of the tags or the label; by default "tags" or "label".
        text_column: field of the words or the text; by default "tokens" or "text".

    Raises:
        UserError: a line is not a JSON object, or lacks a field, or a field has another type.
    """
    defaults = DEFAULTS[task]
    names = (str(text_column or defaults[0]), str(column or defaults[1]))
    examples: list[Example] = []
    numbers: dict[str, int] = {}
    for number, line in enumerate(file.lines, start=1):
        if line.strip():
            record = _parsed(file, number, line)
            try:
                examples.append(example_of(record, number, task, names))
            except ValueError as error:
                raise file.error(number, str(error)) from None
            values = record[names[1]]
            numbers.update((str(v), v) for v in (values if task == "tokens" else [values]) if type(v) is int)
    return JsonLines(file, task, examples, numbers)


def example_of(record: Mapping[str, Any], line: int, task: str, names: tuple[str, str]) -> Example:
    """The example in a record.

    Args:
        record: values by field.
        line: its number.
        task: "tokens" or "sequence".
        names: fields of the words or the text, and of the labels.

    Raises:
        ValueError: a field is missing or has another type.
    """
    for name in names:
        if record.get(name) is None:
            raise ValueError(f'no field "{name}"; it has {", ".join(record) or "none"}')
    content, labels = (record[name] for name in names)
    if task == "sequence":
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f'"{names[0]}" is {_kind(content)}, should be a text')
        example = split_text(content, line)
        return Example(example.words, example.spaces, content, line, label=label_name(labels, names[1]))
    if not isinstance(content, list) or not all(isinstance(word, str) for word in content):
        raise ValueError(f'"{names[0]}" is {_kind(content)}, should be a list of words')
    if not content:
        raise ValueError("a sentence without words")
    if not isinstance(labels, list):
        raise ValueError(f'"{names[1]}" is {_kind(labels)}, should be a list of tags')
    if len(labels) != len(content):
        raise ValueError(f"{len(labels)} tags for {len(content)} words, should be one for each")
    text, spans = join_words(content)
    given = record.get("text")
    found = find_words(content, given) if isinstance(given, str) else None
    if found is not None and isinstance(given, str):
        text, spans = given, found
    return Example(tuple(content), spans, text, line, tuple(label_name(label, names[1]) for label in labels))


def label_name(label: Any, field: str) -> str:
    """The name of a label, which is a string or an integer."""
    if isinstance(label, str) and label.strip():
        return label
    if type(label) is int:
        return str(label)
    raise ValueError(f'"{field}" has {_kind(label)}, should have strings or integers')


def _parsed(file: TextFile, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise file.error(number, f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:  # a number of many digits; brackets in brackets
        raise file.error(number, f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise file.error(number, f"{_kind(record)}, should be an object per line")
    return record


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "a string" if value.strip() else "an empty string"
    if isinstance(value, bool | int | float):
        return f"the {'truth value' if isinstance(value, bool) else 'number'} {json.dumps(value)}"
    return "a list" if isinstance(value, list) else "an object"
