"""The shape of a task: rows to fit a head on, other rows to judge it by, and what rules without a model reach."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from electra_kernels.errors import UserError
from electra_kernels.metrics import area_under_curve

BATCH_ROWS = 64

# (input_ids int64 [B, T], attention_mask bool [B, T]) → a value per token [B, T, ...] or per row [B, ...], on the CPU.
Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Examples:
    """Rows with a label per token or per row.

    Attributes:
        input_ids: int64 [M, T], each row [CLS] tokens [SEP] and then padding.
        attention_mask: bool [M, T].
        asked: bool [M, T] (per token) or [M] (per row): what has a label that counts.
        labels: bool, of the shape of ``asked``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    asked: Tensor
    labels: Tensor

    def take(self, index: Tensor | slice) -> "Examples":
        """The rows of ``index``, without the columns that are padding in all of them."""
        width = int(self.attention_mask[index].sum(-1).max())
        parts = (self.input_ids, self.attention_mask, self.asked, self.labels)
        return Examples(*(part[index][:, :width] if part.dim() == 2 else part[index] for part in parts))

    def batches(self) -> Iterator["Examples"]:
        """All rows in their order, a few at a time."""
        for start in range(0, len(self.input_ids), BATCH_ROWS):
            yield self.take(slice(start, start + BATCH_ROWS))

    def answers(self) -> Tensor:
        """The labels of all that is asked, bool [n]."""
        return self.labels[self.asked]

    def values(self, score: Score) -> Tensor:
        """What ``score`` gives for all that is asked, [n, ...] in the order of `answers`."""
        return torch.cat([score(b.input_ids, b.attention_mask)[b.asked] for b in self.batches()])


@dataclass(frozen=True)
class Task:
    """A question with yes or no for an answer, asked of every token or of every row.

    Attributes:
        name: of the task.
        per: "token" or "row".
        metric: the name of what `measure` returns, "AUC" or "accuracy".
        baselines: that figure of rules that need no model, by their names.
        train: what a head is fitted to.
        test: what it is judged by; no sentence of these is in ``train``.
        measure: the figure of a score on the test part, given (input_ids, attention_mask) → [B, T] or [B],
            higher where yes is likelier; yes means above 0.
    """

    name: str
    per: Literal["token", "row"]
    metric: str
    baselines: dict[str, float]
    train: Examples
    test: Examples
    measure: Callable[[Score], float]


def area(examples: Examples, score: Score) -> float:
    """AUC over all that is asked."""
    return area_under_curve(examples.values(score), examples.answers())


def accuracy(examples: Examples, score: Score) -> float:
    """Share of right answers among all that is asked; a score above 0 says yes."""
    return float(((examples.values(score) > 0) == examples.answers()).double().mean())


def pad(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    """Rows of up to ``length`` numbers, filled up with ``value``: int64 [M, length]."""
    filled = [[*row, *[value] * (length - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64).reshape(len(rows), length)


def require_both_answers(name: str, **parts: Examples) -> None:
    """Raise the UserError of a text in which there is nothing to tell apart."""
    for part, examples in parts.items():
        answers = examples.answers()
        if not answers.any() or answers.all():
            raise UserError(
                f"{name}: the {part} text has {int(answers.sum()):,} of {len(answers):,} answers that are yes, "
                "should have both yes and no"
            )
