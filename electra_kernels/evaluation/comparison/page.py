"""The page of a comparison: the conclusion, the curves, and tables of the scores and of their differences."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from electra_kernels.evaluation.comparison.conclusion import conclusion
from electra_kernels.evaluation.comparison.curves import budgets_figure
from electra_kernels.evaluation.comparison.intervals import tokens_to
from electra_kernels.evaluation.comparison.scores import (
    MODES,
    Record,
    budgets_of,
    difference,
    first_of,
    run_curve,
    runs_of,
    score,
    tasks_of,
    tokens_needed,
)
from electra_kernels.evaluation.comparison.setting import UNTRAINED
from electra_kernels.evaluation.figures import comparison_figure
from electra_kernels.evaluation.pages import render
from electra_kernels.files import write_whole

TARGETS = (0.6, 0.7, 0.8)


class Section(NamedTuple):
    """A table of the page, with its title and the note below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def write_page(folder: Path, record: Record) -> Path:
    """Write compare.html, and its curves as compare.png; returns the path of the page."""
    page, budgets = folder / "compare.html", budgets_of(record)
    curves = budgets_figure(record) if len(budgets) > 1 else _run_curves(record)
    write_whole(folder / "compare.png", curves)
    sections = [
        *(_budget_sections(record) if len(budgets) > 1 else [tokens_to_targets(record)]),
        *(probes(record, mode) for mode in MODES),
        *(differences(record, mode) for mode in MODES),
        signals(record),
    ]
    values = record | {
        "budgets": {budget: _seeds(record, budget) for budget in budgets},
        "curves": curves,
        "conclusion": conclusion(record),
        "sections": sections,
        "alarms": _alarms(record),
        "muon_ratio": _muon_ratio(record["recipe"]),
    }
    write_whole(page, render("compare.html", **values))
    return page


def tokens_to_targets(record: Record) -> Section:
    """Tokens that each objective has seen when its mean curve within the runs reaches the targets."""
    rows = []
    for name in record["objectives"]:
        means = [(tokens, figure.mean) for tokens, figure in run_curve(record, name)]
        reached = [tokens_to(means, target) for target in TARGETS]
        rows.append([name, *("not reached" if tokens is None else f"{tokens:,.0f}" for tokens in reached)])
    header = ["objective", *(f"AUC {target:g}" for target in TARGETS)]
    return Section("Tokens seen until the AUC was reached", header, rows)


def _budget_sections(record: Record) -> Iterator[Section]:
    for mode in MODES:
        yield tokens_to_first(record, mode)
        for task in tasks_of(record, mode):
            yield by_budget(record, task, mode)


def tokens_to_first(record: Record, mode: str) -> Section:
    """Tokens that each objective needs for the score that the first one has at the second-largest budget."""
    first, budgets, tasks = first_of(record), budgets_of(record), tasks_of(record, mode)
    targets = [score(record, first, task, mode, budgets[-2]).mean for task in tasks]
    rows = [
        [name, *(_needed(record, name, task, mode, target) for task, target in zip(tasks, targets))]
        for name in record["objectives"]
    ]
    header = ["million tokens", *(f"{task}: {target:.3f}" for task, target in zip(tasks, targets))]
    title = f"Tokens needed for the score of {first} at {budgets[-2]:,} tokens, {MODES[mode]}"
    note = "The mean scores over seeds are interpolated between the budgets in the logarithm of the tokens."
    return Section(title, header, rows, note)


def _needed(record: Record, objective: str, task: str, mode: str, target: float) -> str:
    budgets, tokens = budgets_of(record), tokens_needed(record, objective, task, mode, target)
    if tokens is None:
        return f"> {budgets[-1] / 1e6:g}"
    return f"≤ {budgets[0] / 1e6:g}" if tokens <= budgets[0] else f"{tokens / 1e6:.2g}"


def by_budget(record: Record, task: str, mode: str) -> Section:
    """The scores of one task at all budgets, each with the difference from the first objective seed by seed."""
    first, budgets = first_of(record), budgets_of(record)
    rows = []
    for name in record["objectives"]:
        cells = [str(score(record, name, task, mode, budget)) for budget in budgets]
        if name != first:
            apart = [difference(record, name, first, task, mode, budget) for budget in budgets]
            cells = [f"{cell} ({other:+})" for cell, other in zip(cells, apart)]
        rows.append([name, *cells])
    header = ["", *(f"{budget:,}" for budget in budgets)]
    return Section(f"{task} at each budget, {MODES[mode]} (difference from {first})", header, rows)


def probes(record: Record, mode: str) -> Section:
    """The scores of all tasks at the largest budget, and below them those of rules without a model."""
    tasks, rules = tasks_of(record, mode), record["baselines"] | {"replaced_tokens": record["curve_baseline"]}
    rows = [
        [name, *(str(score(record, name, task, mode)) for task in tasks)]
        for name in (*record["objectives"], UNTRAINED)
    ]
    rows += [
        [f"rule: {rule}", *(f"{rules[task][rule]:.3f}" if rule in rules[task] else "" for task in tasks)]
        for rule in _rules({task: rules[task] for task in tasks})
    ]
    header = ["", *(_headed(record, task) for task in tasks)]
    return Section(f"All tasks{_largest(record)}, {MODES[mode]}", header, rows)


def differences(record: Record, mode: str) -> Section:
    """The differences of all objectives from the first one at the largest budget."""
    first, tasks = first_of(record), tasks_of(record, mode)
    rows = [
        [name, *(f"{difference(record, name, first, task, mode):+}" for task in tasks)]
        for name in (*record["objectives"], UNTRAINED)
        if name != first
    ]
    note = (
        "Runs of one seed share their start and, where they train, their batches. An interval without 0 means that "
        "the two objectives differ; by chance alone, one cell in twenty has such an interval."
    )
    title = f"Difference from {first}{_largest(record)}, seed by seed, {MODES[mode]}"
    return Section(title, ["", *tasks], rows, note)


def signals(record: Record) -> Section:
    """The description of each objective, its learning rate, its speed and the strength of its generator."""
    rows = []
    for name, facts in record["objectives"].items():
        runs = runs_of(record, name)
        speed = sum(run["tokens"] for run in runs) / sum(run["seconds"] for run in runs)
        rows.append(
            [
                name,
                f"{facts['labels']} (per {facts['per']})",
                facts["detects"],
                facts["cannot_detect"],
                f"{runs[0]['learning_rate']:g}",
                f"{speed:,.0f}",
                *(_mean_share(runs, metric) for metric in ("mlm_accuracy", "sampled_accuracy")),
            ]
        )
    header = ["objective", "labels per row", "detects", "cannot detect", "learning rate", "tokens/s"]
    note = (
        "Of the masked tokens of held-out text, the share whose original is the top word, and whose original is the "
        "sample; the other samples are replacements. Those of masked_lm are of the encoder itself."
    )
    return Section("The signals", [*header, "masked accuracy", "sampled accuracy"], rows, note)


def _run_curves(record: Record) -> bytes:
    named = {name: run_curve(record, name) for name in record["objectives"]}
    (baseline,) = record["curve_baseline"].items()
    return comparison_figure(named, record["objectives"], baseline)


def _mean_share(runs: list[Record], metric: str) -> str:
    values = [run["held_out"][metric] for run in runs if metric in run["held_out"]]
    return f"{sum(values) / len(values):.1%}" if values else ""


def _headed(record: Record, task: str) -> str:
    facts = record["baselines"].get(task, {"per": "token", "metric": "AUC"})
    return f"{task} (per {facts['per']}, {facts['metric']})"


def _largest(record: Record) -> str:
    budgets = budgets_of(record)
    return f" at {budgets[-1]:,} tokens" if len(budgets) > 1 else ""


def _seeds(record: Record, budget: int) -> int:
    return len(runs_of(record, first_of(record), budget))


def _muon_ratio(recipe: Record) -> float | None:
    """Learning rate of Muon over that of AdamW; None without Muon."""
    muon = recipe["muon_learning_rate"]
    return None if muon is None else float(muon / recipe["learning_rate"])


def _rules(tasks: Mapping[str, Record]) -> list[str]:
    found = (rule for facts in tasks.values() for rule in facts if rule not in ("metric", "per"))
    return list(dict.fromkeys(found))


def _alarms(record: Record) -> list[str]:
    lines = (
        f"{run['objective']}, {run['tokens']:,} tokens, learning rate {run['learning_rate']:g}, seed {run['seed']}: "
        f"{alarm}"
        for run in [*record["tried"], *record["runs"]]
        for alarm in run["alarms"]
    )
    return list(dict.fromkeys(lines))
