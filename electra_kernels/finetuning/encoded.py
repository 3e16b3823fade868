"""Examples as rows of a model, and the model's logits as probabilities of words or texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from transformers import PreTrainedTokenizerFast

from electra_kernels.finetuning.labelled import Example
from electra_kernels.finetuning.pieces import TextWindow, Window, per_text, per_word, text_windows, windows
from electra_kernels.finetuning.scores import Scores, score_binary, score_entities, score_labels, score_tags
from electra_kernels.finetuning.task import Task

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Encoded:
    """Examples and their rows; ``windows`` are Window or TextWindow, as the task is."""

    task: Task
    examples: Sequence[Example]
    windows: Sequence[Any]

    def rows(self) -> list[dict[str, Any]]:
        """The input_ids and labels of each window, which a data collator of transformers pads."""
        if self.task.task == "sequence":
            return [{"input_ids": window.input_ids, "labels": window.label} for window in self.windows]
        return [{"input_ids": window.input_ids, "labels": window.labels} for window in self.windows]

    def probabilities(self, logits: Sequence[NDArray[Any]]) -> list[Array]:
        """Merge the logits of all rows.

        Args:
            logits: of each row, [its tokens or more, C] for tags and [C] for texts.

        Returns:
            Of each example, [words, C] for tags and [C] for texts; with two tags, C = 1.
        """
        task = self.task
        arrays: list[Array] = [np.asarray(row, dtype=np.float64) for row in logits]
        if task.task == "sequence":
            merged = per_text(self.windows, arrays, len(self.examples))
            return list(softmax(merged, axis=-1))
        trimmed: list[Array] = [row[: len(window.input_ids)] for window, row in zip(self.windows, arrays)]
        if task.is_binary:
            if task.label_all_pieces:
                trimmed = [_word_maxima(window, row) for window, row in zip(self.windows, trimmed)]
            found = [expit(row - task.logit_offset) for row in trimmed]
            missing = np.array([float(task.default == task.labels[1])])
        else:
            found = [softmax(row, axis=-1) for row in trimmed]
            missing = np.array([float(name == task.default) for name in task.labels])
        return list(per_word(self.windows, found, self.examples, missing))

    def score(self, probabilities: Sequence[Array]) -> Scores:
        """Compare with the labels of the examples."""
        task = self.task
        if task.task == "sequence":
            return score_labels(
                [str(example.label) for example in self.examples], text_labels(task, probabilities)
            )
        gold = [example.tags or () for example in self.examples]
        if task.is_binary:
            negative, positive = task.labels
            is_positive = [tag == positive for tags in gold for tag in tags]
            flat = [float(p) for words in probabilities for p in words[:, 0]]
            return score_binary(is_positive, flat, task.threshold, (negative, positive))
        predicted = word_tags(task, probabilities)
        return score_entities(gold, predicted) if task.scheme == "BIO" else score_tags(gold, predicted)


def encode(task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """Divide examples into rows of at most ``task.length`` tokens; labels where the examples have them."""
    labelled = bool(examples) and (examples[0].tags is not None or examples[0].label is not None)
    ids = task.label_ids if labelled else None
    rows: Sequence[Window] | Sequence[TextWindow]
    if task.task == "sequence":
        rows = text_windows(examples, tokenizer, task.length, label_ids=ids)
    else:
        rows = windows(
            examples, tokenizer, task.length, label_all_pieces=task.label_all_pieces, label_ids=ids
        )
    return Encoded(task, examples, rows)


def word_tags(task: Task, probabilities: Sequence[Array]) -> list[list[str]]:
    """The tag of each word: the most probable one, or with two tags what the threshold says."""
    if task.is_binary:
        return [[task.labels[int(p >= task.threshold)] for p in words[:, 0]] for words in probabilities]
    return [[task.labels[index] for index in words.argmax(-1)] for words in probabilities]


def text_labels(task: Task, probabilities: Sequence[Array]) -> list[str]:
    """The most probable label of each text."""
    return [task.labels[int(text.argmax())] for text in probabilities]


def _word_maxima(window: Window, scores: Array) -> Array:
    """[T, C] with the largest score of all pieces of its word at each token."""
    words = np.asarray(window.words)
    merged = scores.copy()
    for word in np.unique(words[words >= 0]):
        merged[words == word] = scores[words == word].max(axis=0)
    return merged
