"""What the scores of a comparison support and what they do not, in sentences that are made from the numbers."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from electra_kernels.evaluation.comparison.intervals import CONFIDENCE
from electra_kernels.evaluation.comparison.scores import (
    FROZEN,
    MODES,
    Record,
    budgets_of,
    difference,
    first_of,
    runs_of,
    side,
    tasks_of,
)


class Pair(NamedTuple):
    """An objective beside the first one at one task, and its side (`side`) at each budget."""

    objective: str
    task: str
    mode: str
    sides: dict[int, int]

    @property
    def mode_name(self) -> str:
        return "frozen" if self.mode == FROZEN else "fine-tuned"


def conclusion(record: Record) -> list[str]:
    """Sentences: who is ahead and behind, whether the order changes with the budget, and the limits of both.

    The standing is that of the largest budget with several seeds, because a single seed has no interval.
    """
    first, budgets = first_of(record), budgets_of(record)
    pairs = list(_pairs(record))
    if not pairs:
        return []
    largest = max(budgets, key=lambda budget: (len(runs_of(record, first, budget)) > 1, budget))
    undecided = sum(pair.sides[largest] == 0 for pair in pairs)
    sentences = [
        _standing(pairs, largest, 1, f"Ahead of {first} {_at(largest)}, beyond the paired interval"),
        _standing(pairs, largest, -1, f"Behind {first}"),
        f"{undecided} of the {len(pairs)} differences are undecided; chance alone decides about "
        f"{(1 - CONFIDENCE) * len(pairs):.0f} of so many.",
    ]
    if len(budgets) > 1:
        sentences.append(_changes(pairs, first, budgets))
    return [*sentences, "This is one text and one size of encoder; it says nothing about larger budgets."]


def _pairs(record: Record) -> Iterator[Pair]:
    first = first_of(record)
    for mode in MODES:
        for task in tasks_of(record, mode):
            for name in record["objectives"]:
                if name != first:
                    sides = {
                        budget: side(difference(record, name, first, task, mode, budget))
                        for budget in budgets_of(record)
                    }
                    yield Pair(name, task, mode, sides)


def _standing(pairs: Iterable[Pair], budget: int, wanted: int, beginning: str) -> str:
    places: dict[str, dict[str, list[str]]] = {}
    for pair in pairs:
        if pair.sides[budget] == wanted:
            places.setdefault(pair.objective, {}).setdefault(pair.mode_name, []).append(pair.task)
    found = (
        f"{name} ({'; '.join(f'{mode}: ' + ', '.join(tasks) for mode, tasks in modes.items())})"
        for name, modes in places.items()
    )
    return f"{beginning}: {', '.join(found) or 'no objective'}."


def _changes(pairs: list[Pair], first: str, budgets: list[int]) -> str:
    """A pair changes its order if it is decided at two budgets, and not in the same way."""
    changed, several = [], 0
    for pair in pairs:
        decided = {budget: where for budget, where in pair.sides.items() if where}
        several += len(decided) > 1
        if len(set(decided.values())) > 1:
            words = (
                f"{'ahead' if where > 0 else 'behind'} {_at(budget)}" for budget, where in decided.items()
            )
            changed.append(f"{pair.objective} ({pair.mode_name}: {pair.task}) is {', '.join(words)}")
    if changed:
        return f"The order relative to {first} changes with the budget: {'; '.join(changed)}."
    return (
        f"Between {budgets[0]:,} and {budgets[-1]:,} tokens no objective is seen to change sides with {first}: "
        f"{several} of the {len(pairs)} differences are decided at more than one budget."
    )


def _at(budget: int) -> str:
    return f"at {budget:,} tokens" if budget else "after the given time"
