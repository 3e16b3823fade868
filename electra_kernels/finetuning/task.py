"""What a model has been fine-tuned to do: its labels, and how its outputs become tags. Kept in finetuning.json."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from electra_kernels.errors import UserError
from electra_kernels.files import write_whole
from electra_kernels.finetuning.labelled import Example, Labelled
from electra_kernels.finetuning.tags import default_tag, scheme_of, tag_names

FILE = "finetuning.json"
LARGEST_POSITIVE_WEIGHT = 20.0
BINARY = "binary"


@dataclass(frozen=True)
class Task:
    """Labels of a fine-tuned model and their meaning.

    Attributes:
        task: "tokens", a tag per word, or "sequence", a label per text.
        scheme: of tags: "BIO", "binary" (two tags, one logit) or "plain"; of labels: "plain".
        labels: names in the order of the logits; for "binary" the negative and the positive tag.
        default: tag of words of which the tokenizer makes no piece.
        length: largest number of tokens in a row.
        label_all_pieces: whether all pieces of a word were trained, instead of the first.
        punctuation_apart: whether punctuation marks are words of their own in the training file.
        positive_weight: of the loss, "binary" only. Its logarithm is taken off the logits again, so that probabilities
            are those of the training file.
        threshold: probability from which a word is tagged positive, "binary" only.
    """

    task: str
    scheme: str
    labels: tuple[str, ...]
    default: str
    length: int
    label_all_pieces: bool = False
    punctuation_apart: bool = True
    positive_weight: float = 1.0
    threshold: float = 0.5

    @property
    def is_binary(self) -> bool:
        return self.scheme == BINARY

    @property
    def outputs(self) -> tuple[str, ...]:
        """Name of each logit."""
        return self.labels[1:] if self.is_binary else self.labels

    @property
    def label_ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.labels)}

    @property
    def logit_offset(self) -> float:
        """What a logit is too large by: with weight w, the best logit is log(w) plus that of the probability."""
        return math.log(self.positive_weight)

    @property
    def main_figure(self) -> str:
        """The figure that decides which epoch and which seed is best."""
        return {"BIO": "f1", BINARY: "average_precision"}.get(self.scheme, "macro_f1")

    def save(self, folder: Path) -> None:
        write_whole(folder / FILE, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def load_task(folder: Path) -> Task:
    """Read finetuning.json.

    Raises:
        UserError: the folder has none, or it is damaged.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {entry.name for entry in fields(Task)}
        task = Task(**{name: value for name, value in values.items() if name in known})
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: {folder} should be a folder that electra-kernels finetune wrote"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return Task(**asdict(task) | {"labels": tuple(task.labels)})


def task_of(training: Labelled, *, positive: str | None, length: int, label_all_pieces: bool) -> Task:
    """Find out from its training file what is to be learnt.

    Args:
        training: labelled examples.
        positive: the tag to find, if there are two tags; by default the less frequent one.
        length: largest number of tokens in a row.
        label_all_pieces: train all pieces of a word instead of the first.

    Raises:
        UserError: there is only one label, or ``positive`` is no tag of a binary problem.
    """
    names = label_names(training.examples)
    counts = Counter(names)
    if len(counts) < 2:
        found = f"only {next(iter(counts))!r}" if counts else "none"
        raise UserError(f"{training.path}: has {found} as label, should have at least two different ones")
    is_tokens = training.task == "tokens"
    scheme = scheme_of(counts) if is_tokens else "plain"
    labels = tuple(tag_names(counts))
    if scheme == BINARY:
        labels = _binary_labels(training.path, counts, positive)
    elif positive is not None:
        kind = f"{len(counts)} tags" if is_tokens else "a label per text"
        raise UserError(
            f"--positive {positive} is given, but {training.path} has {kind}, should have two tags"
        )
    return Task(
        training.task,
        scheme,
        labels,
        default_tag(names),
        length,
        label_all_pieces,
        punctuation_apart=_has_punctuation_apart(training.examples),
        positive_weight=_positive_weight(counts, labels) if scheme == BINARY else 1.0,
    )


def label_names(examples: Sequence[Example]) -> list[str]:
    """The tags of all words, or the labels of all texts."""
    names: list[str] = []
    for example in examples:
        names += (
            example.tags if example.tags is not None else [example.label] if example.label is not None else []
        )
    return names


def _binary_labels(path: Path, counts: Counter[str], positive: str | None) -> tuple[str, str]:
    rare, frequent = sorted(counts, key=lambda tag: (counts[tag], tag))
    if positive is None or positive == rare:
        return frequent, rare
    if positive != frequent:
        raise UserError(f"--positive {positive} is no tag in {path}, should be {frequent} or {rare}")
    return rare, frequent


def _positive_weight(counts: Counter[str], labels: tuple[str, ...]) -> float:
    negative, positive = labels
    return min(max(counts[negative] / counts[positive], 1.0), LARGEST_POSITIVE_WEIGHT)


def _has_punctuation_apart(examples: Collection[Example]) -> bool:
    """Whether most final punctuation marks are words of their own: those after a letter count against it."""
    last = [example.words[-1] for example in examples if example.words]
    apart = sum(not re.search(r"\w", word) for word in last)
    attached = sum(bool(re.search(r"\w[.!?]$", word)) for word in last)
    return apart >= attached
