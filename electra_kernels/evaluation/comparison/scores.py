"""The scores in the record of a comparison: intervals over seeds, differences seed by seed, curves over budgets."""

import math
from typing import Any

from electra_kernels.evaluation.comparison.intervals import Interval, interval, tokens_to
from electra_kernels.evaluation.comparison.setting import UNTRAINED

REPLACED = "replaced_tokens"  # the task of the learning curves, measured with the encoder frozen only
FROZEN, FINE_TUNED = "frozen", "fine_tuned"
MODES = {FROZEN: "the encoder frozen", FINE_TUNED: "the encoder fine-tuned"}
Record = dict[str, Any]


def first_of(record: Record) -> str:
    """The objective with which the others are compared."""
    return str(next(iter(record["objectives"])))


def budgets_of(record: Record) -> list[int]:
    """The finished budgets, from small to large."""
    return sorted({run["budget"] for run in record["runs"] if run["objective"] != UNTRAINED})


def tasks_of(record: Record, mode: str) -> list[str]:
    """The tasks that are measured in a mode."""
    return [*([REPLACED] if mode == FROZEN else []), *record["baselines"]]


def runs_of(record: Record, objective: str, budget: int | None = None) -> list[Record]:
    """The runs of one objective with one budget, by default the largest. Those of `UNTRAINED` have none."""
    if objective == UNTRAINED:
        budget = 0
    elif budget is None:
        budget = budgets_of(record)[-1]
    return [run for run in record["runs"] if (run["objective"], run["budget"]) == (objective, budget)]


def scores(
    record: Record, objective: str, task: str, mode: str, budget: int | None = None
) -> dict[int, float]:
    """Seed → score."""
    runs = runs_of(record, objective, budget)
    if task == REPLACED:
        return {run["seed"]: run["curve"][-1]["figure"] for run in runs}
    return {run["seed"]: run["probes"][task][mode] for run in runs}


def score(record: Record, objective: str, task: str, mode: str, budget: int | None = None) -> Interval:
    """The interval over seeds."""
    return interval(list(scores(record, objective, task, mode, budget).values()))


def difference(
    record: Record, objective: str, other: str, task: str, mode: str, budget: int | None = None
) -> Interval:
    """The interval of ``objective`` minus ``other``, seed by seed.

    Two runs of one seed and budget have the same start and the same batches, whose effect cancels in the difference.
    """
    ours, theirs = (scores(record, name, task, mode, budget) for name in (objective, other))
    return interval([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def side(apart: Interval) -> int:
    """1 or -1 if the whole interval of a difference is above or below 0, else 0; 0 for a single seed."""
    is_apart = not math.isnan(apart.half_width) and abs(apart.mean) > apart.half_width
    return int(math.copysign(1, apart.mean)) if is_apart else 0


def budget_curve(record: Record, objective: str, task: str, mode: str) -> list[tuple[int, Interval]]:
    """The points (budget, interval of the score over seeds)."""
    return [(budget, score(record, objective, task, mode, budget)) for budget in budgets_of(record)]


def tokens_needed(record: Record, objective: str, task: str, mode: str, target: float) -> float | None:
    """Tokens at which the mean curve over budgets reaches the target, interpolated in their logarithm.

    It is the smallest budget if the target is reached there, and None if no budget reaches it.
    """
    points = budget_curve(record, objective, task, mode)
    if points[0][1].mean >= target:
        return float(points[0][0])
    reached = tokens_to([(math.log(budget), figure.mean) for budget, figure in points], target)
    return None if reached is None else math.exp(reached)


def run_curve(record: Record, objective: str) -> list[tuple[float, Interval]]:
    """The points of the learning curve within the runs: (mean tokens over seeds, interval of the AUC over seeds)."""
    points = zip(*(run["curve"] for run in runs_of(record, objective)))
    return [
        (sum(p["tokens"] for p in point) / len(point), interval([p["figure"] for p in point]))
        for point in points
    ]
