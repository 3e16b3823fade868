"""The interface of a task: rows to fit a head to, other rows to judge it by, and baselines without a model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from electra_kernels.errors import UserError
from electra_kernels.evaluation.held_out import Score
from electra_kernels.metrics import area_under_curve

BATCH_ROWS = 64


@dataclass(frozen=True)
class Examples:
    """Rows with a label per token or per row.

    Attributes:
        input_ids: int64 [M, T], each row [CLS] tokens [SEP] and then padding.
        attention_mask: bool [M, T].
        asked: bool, which labels count: [M, T] for labels per token, [M] for labels per row.
        labels: bool, the same shape as ``asked``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    asked: Tensor
    labels: Tensor

    def select(self, index: Tensor | slice) -> "Examples":
        """The rows of ``index``, without the columns in which all of them have padding."""
        width = int(self.attention_mask[index].sum(-1).max())
        parts = (self.input_ids, self.attention_mask, self.asked, self.labels)
        return Examples(*(part[index][:, :width] if part.dim() == 2 else part[index] for part in parts))

    def batches(self) -> Iterator["Examples"]:
        """All rows in their order, in batches of up to `BATCH_ROWS`."""
        for start in range(0, len(self.input_ids), BATCH_ROWS):
            yield self.select(slice(start, start + BATCH_ROWS))

    def answers(self) -> Tensor:
        """The labels that count, bool [n]."""
        return self.labels[self.asked]

    def values(self, score: Score) -> Tensor:
        """The scores where a label counts, [n, ...] in the order of `answers`; ``score`` returns them on the CPU."""
        return torch.cat([score(b.input_ids, b.attention_mask)[b.asked] for b in self.batches()])


@dataclass(frozen=True)
class Task:
    """A yes-or-no question about every token or about every row.

    Attributes:
        name: key in tables and files.
        per: "token" or "row".
        metric: name of the result of `measure`, "AUC" or "accuracy".
        baselines: rule that needs no model → its metric.
        train: examples that a head is fitted to.
        test: examples that it is judged by; none of their sentences is in ``train``.
        measure: gives the metric of a score [B, T] or [B] on the test examples. A higher score means that yes is
            more likely; a score above 0 says yes.
    """

    name: str
    per: Literal["token", "row"]
    metric: str
    baselines: dict[str, float]
    train: Examples
    test: Examples
    measure: Callable[[Score], float]


def area(examples: Examples, score: Score) -> float:
    """AUC over the labels that count."""
    return area_under_curve(examples.values(score), examples.answers())


def accuracy(examples: Examples, score: Score) -> float:
    """Share of right answers among the labels that count; a score above 0 says yes."""
    return float(((examples.values(score) > 0) == examples.answers()).double().mean())


def require_both_answers(name: str, **parts: Examples) -> None:
    """Raise a UserError unless each of the parts has both answers."""
    for part, examples in parts.items():
        answers = examples.answers()
        if not answers.any() or answers.all():
            raise UserError(
                f"{name}: the {part} text has {int(answers.sum()):,} of {len(answers):,} answers that are yes, "
                "should have both yes and no"
            )
