"""Keep a part of the training examples apart, for early stopping, the best seed and the threshold."""

import random
from collections.abc import Sequence

from electra_kernels.errors import UserError
from electra_kernels.finetuning.labelled import Example, Labelled
from electra_kernels.finetuning.settings import HELD_OUT
from electra_kernels.finetuning.task import Task


def split(training: Labelled, task: Task, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, each in the order of the file.

    Whole sentences (or texts) are held out: `HELD_OUT` of each group, drawn by the seed. A group is the texts of one
    label or, with two tags, the sentences with and without the positive one; other tags make one group of all.

    Raises:
        UserError: there are too few examples.
    """
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(training.examples):
        groups.setdefault(_group(example, task), []).append(index)
    generator = random.Random(seed)
    held_out: set[int] = set()
    for _, members in sorted(groups.items()):
        count = min(max(1, round(HELD_OUT * len(members))), len(members) - 1)
        held_out.update(generator.sample(members, count))
    chosen = [training.examples[index] for index in held_out]
    if not chosen or (task.is_binary and not _has_positive(chosen, task)):
        what = f" with {task.labels[1]}" if chosen else ""
        raise UserError(
            f"{training.path}: too few examples{what} to hold some out, should have 2 at least, or give --dev"
        )
    examples = list(enumerate(training.examples))
    return [e for i, e in examples if i not in held_out], [e for i, e in examples if i in held_out]


def check_dev(dev: Labelled, task: Task) -> None:
    """Check that a threshold can be chosen.

    Raises:
        UserError: no word has the positive tag.
    """
    if task.is_binary and not _has_positive(dev.examples, task):
        raise UserError(
            f"{dev.path}: no word is tagged {task.labels[1]}, which the choice of the threshold needs"
        )


def _group(example: Example, task: Task) -> str:
    if task.task == "sequence":
        return str(example.label)
    return str(task.is_binary and _has_positive([example], task))


def _has_positive(examples: Sequence[Example], task: Task) -> bool:
    return any(task.labels[1] in (example.tags or ()) for example in examples)
