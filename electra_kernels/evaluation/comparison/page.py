"""The page of a comparison: the curves, and tables of the probes and of their differences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from electra_kernels.evaluation.comparison.intervals import Interval, interval, tokens_to
from electra_kernels.evaluation.comparison.setting import UNTRAINED
from electra_kernels.evaluation.figures import comparison_figure
from electra_kernels.evaluation.pages import render
from electra_kernels.files import write_whole

TARGETS = (0.6, 0.7, 0.8)
MODES = {"frozen": "the encoder frozen", "fine_tuned": "the encoder fine-tuned"}
Record = dict[str, Any]


class Section(NamedTuple):
    """A table of the page, with its title and the note below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def write_page(folder: Path, record: Record) -> Path:
    """Write compare.html, and its curves as compare.png; returns the path of the page."""
    page, curves = folder / "compare.html", _curves_picture(record)
    write_whole(folder / "compare.png", curves)
    sections = [
        tokens_to_targets(record),
        *(probes(record, mode) for mode in MODES),
        *(differences(record, mode) for mode in MODES),
        signals(record),
    ]
    values = record | {"curves": curves, "sections": sections, "alarms": _alarms(record)}
    write_whole(page, render("compare.html", **values, muon_ratio=_muon_ratio(record["recipe"])))
    return page


def runs_of(record: Record, objective: str) -> list[Record]:
    """The runs of one objective."""
    return [run for run in record["runs"] if run["objective"] == objective]


def figures(record: Record, objective: str, task: str, mode: str) -> Interval:
    """The interval over seeds of one probe."""
    return interval([run["probes"][task][mode] for run in runs_of(record, objective)])


def difference(record: Record, objective: str, other: str, task: str, mode: str) -> Interval:
    """The interval of ``objective`` minus ``other``, seed by seed.

    Two runs of one seed have the same start and the same batches, whose effect cancels in the difference.
    """
    ours, theirs = (
        {run["seed"]: run["probes"][task][mode] for run in runs_of(record, name)}
        for name in (objective, other)
    )
    return interval([ours[seed] - theirs[seed] for seed in ours])


def curve(record: Record, objective: str) -> list[tuple[float, Interval]]:
    """The points (mean tokens over seeds, interval of the AUC over seeds)."""
    points = zip(*(run["curve"] for run in runs_of(record, objective)))
    return [
        (sum(p["tokens"] for p in point) / len(point), interval([p["figure"] for p in point]))
        for point in points
    ]


def tokens_to_targets(record: Record) -> Section:
    """Tokens that each objective has seen when its mean curve reaches the targets."""
    rows = []
    for name in record["objectives"]:
        means = [(tokens, figure.mean) for tokens, figure in curve(record, name)]
        reached = [tokens_to(means, target) for target in TARGETS]
        rows.append([name, *("not reached" if tokens is None else f"{tokens:,.0f}" for tokens in reached)])
    header = ["objective", *(f"AUC {target:g}" for target in TARGETS)]
    return Section("Tokens seen until the AUC was reached", header, rows)


def probes(record: Record, mode: str) -> Section:
    """The figures of all probes, and below them those of rules without a model."""
    tasks = record["baselines"]
    rows = [
        [name, *(str(figures(record, name, task, mode)) for task in tasks)]
        for name in (*record["objectives"], UNTRAINED)
    ]
    rows += [
        [f"rule: {rule}", *(f"{tasks[task][rule]:.3f}" if rule in tasks[task] else "" for task in tasks)]
        for rule in _rules(tasks)
    ]
    header = ["", *(f"{task} (per {facts['per']}, {facts['metric']})" for task, facts in tasks.items())]
    return Section(f"Other tasks, {MODES[mode]}", header, rows)


def differences(record: Record, mode: str) -> Section:
    """The differences of all objectives from the first one."""
    first, tasks = next(iter(record["objectives"])), list(record["baselines"])
    rows = [
        [name, *(f"{difference(record, name, first, task, mode):+}" for task in tasks)]
        for name in (*record["objectives"], UNTRAINED)
        if name != first
    ]
    note = (
        "Runs of one seed share their start and, where they train, their batches. An interval without 0 means that "
        "the two objectives differ; by chance alone, one cell in twenty has such an interval."
    )
    return Section(f"Difference from {first}, seed by seed, {MODES[mode]}", ["", *tasks], rows, note)


def signals(record: Record) -> Section:
    """The description of each objective, its learning rate and its speed."""
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
            ]
        )
    header = ["objective", "labels per row", "detects", "cannot detect", "learning rate", "tokens/s"]
    return Section("The signals", header, rows)


def _curves_picture(record: Record) -> bytes:
    named = {name: curve(record, name) for name in record["objectives"]}
    (baseline,) = record["curve_baseline"].items()
    return comparison_figure(named, record["objectives"], baseline)


def _muon_ratio(recipe: Record) -> float | None:
    """Learning rate of Muon over that of AdamW; None without Muon."""
    muon = recipe["muon_learning_rate"]
    return None if muon is None else float(muon / recipe["learning_rate"])


def _rules(tasks: Mapping[str, Record]) -> list[str]:
    found = (rule for facts in tasks.values() for rule in facts if rule not in ("metric", "per"))
    return list(dict.fromkeys(found))


def _alarms(record: Record) -> list[str]:
    lines = (
        f"{run['objective']}, learning rate {run['learning_rate']:g}, seed {run['seed']}: {alarm}"
        for run in [*record["tried"], *record["runs"]]
        for alarm in run["alarms"]
    )
    return list(dict.fromkeys(lines))
