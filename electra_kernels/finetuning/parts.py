"""The labelled files of a fine-tuning, read, split and encoded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_kernels.errors import UserError
from electra_kernels.finetuning import pieces
from electra_kernels.finetuning.encoded import Encoded, encode
from electra_kernels.finetuning.held_out import check_dev, split
from electra_kernels.finetuning.labelled import Labelled, check_tags, read_labelled
from electra_kernels.finetuning.settings import HELD_OUT, Options
from electra_kernels.finetuning.task import Task, task_of


@dataclass(frozen=True)
class Parts:
    """The encoded examples; ``test_file`` is that from which the test part comes."""

    task: Task
    train: Encoded
    dev: Encoded
    test: Encoded | None
    test_file: Labelled | None


def read_parts(options: Options, tokenizer: Any, length: int, log: Callable[[str], None]) -> Parts:
    """Read and encode all files.

    Args:
        options: name the files.
        tokenizer: of the model.
        length: largest number of tokens in a row.
        log: gets lines on the sizes, and on what is odd in a file.

    Raises:
        UserError: a mistake in a file.
    """

    def read(path: Path) -> Labelled:
        labelled = read_labelled(
            path, task=options.task, column=options.column, text_column=options.text_column
        )
        for note in labelled.notes:
            log(f"note: {note}")
        return labelled

    training = read(options.train)
    task = task_of(
        training, positive=options.positive, length=length, label_all_pieces=options.label_all_pieces
    )
    dev = read(options.dev) if options.dev else None
    test = read(options.test) if options.test else None
    for other in (dev, test):
        if other is not None:
            check_tags(other, task.labels)
    if dev is None:
        train_examples, dev_examples = split(training, task, options.seed)
    else:
        check_dev(dev, task)
        train_examples, dev_examples = list(training.examples), list(dev.examples)
    parts = [encode(task, examples, tokenizer) for examples in (train_examples, dev_examples)]
    for path, encoded in ((options.train, parts[0]), (options.dev or options.train, parts[1])):
        if not encoded.windows:
            raise UserError(
                f"{path}: the tokenizer makes no piece of any word, should have words that it knows"
            )
    encoded_test = encode(task, test.examples, tokenizer) if test else None
    held_out = str(options.dev) if dev else f"{HELD_OUT:.0%} of {options.train}"
    log(
        f"{len(train_examples):,} {_noun(task)} to train on, {len(dev_examples):,} held out ({held_out}), "
        f"{len(test.examples) if test else 0:,} to test; {len(task.labels)} labels ({task.scheme})"
    )
    for name, part in zip(("train", "dev", "test"), (*parts, encoded_test)):
        for note in [] if part is None else _notes(part):
            log(f"{name}: {note}")
    return Parts(task, parts[0], parts[1], encoded_test, test)


def _notes(part: Encoded) -> list[str]:
    """Lines for the user about words that the model does not see whole, and about divided sentences."""
    task, rows = part.task, len(part.windows)
    lines = [] if task.task == "sequence" else pieces.notes(part.windows, part.examples)
    if rows > len(part.examples):
        lines.append(f"long {_noun(task)} were divided: {rows:,} rows of at most {task.length} tokens")
    return lines


def _noun(task: Task) -> str:
    return "texts" if task.task == "sequence" else "sentences"
