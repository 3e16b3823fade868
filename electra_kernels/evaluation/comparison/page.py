"""The page of a comparison: the table, the curves, and what may be said of them."""

import html
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from electra_kernels.evaluation.comparison.intervals import Interval, interval, tokens_to
from electra_kernels.evaluation.comparison.runs import UNTRAINED
from electra_kernels.evaluation.figures import comparison_figure
from electra_kernels.evaluation.report import html_table, image
from electra_kernels.files import write_whole

TARGETS = (0.6, 0.7, 0.8)
Record = dict[str, Any]


def write_page(folder: Path, record: Record) -> Path:
    """Write compare.html, and its curves as compare.png; returns the path of the page."""
    template = (
        resources.files("electra_kernels.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    )
    page, curves = folder / "compare.html", _curves_picture(record)
    write_whole(folder / "compare.png", curves)
    body = "\n".join(
        [
            _head(record),
            _curves(curves),
            _tokens_to_targets(record),
            _probes(record),
            _differences(record),
            _signals(record),
            _alarms(record),
        ]
    )
    write_whole(page, Template(template).substitute(title="learning signals", body=body))
    return page


def runs_of(record: Record, objective: str) -> list[Record]:
    return [run for run in record["runs"] if run["objective"] == objective]


def figures(record: Record, objective: str, task: str, way: str) -> Interval:
    """The interval over seeds of one probe."""
    return interval([run["probes"][task][way] for run in runs_of(record, objective)])


def difference(record: Record, objective: str, other: str, task: str, way: str) -> Interval:
    """The interval of ``objective`` less ``other``, seed by seed: what their common start and batches do falls out."""
    ours, theirs = (
        {run["seed"]: run["probes"][task][way] for run in runs_of(record, name)}
        for name in (objective, other)
    )
    return interval([ours[seed] - theirs[seed] for seed in ours])


def curve(record: Record, objective: str) -> list[tuple[float, Interval]]:
    """(tokens, AUC) over seeds, point by point; the tokens are their mean."""
    points = zip(*(run["curve"] for run in runs_of(record, objective)))
    return [
        (sum(p["tokens"] for p in point) / len(point), interval([p["figure"] for p in point]))
        for point in points
    ]


def _head(record: Record) -> str:
    budget = f"{record['seconds']:g} seconds" if record["seconds"] else f"{record['steps']:,} steps"
    return f"""<h1>Same encoder, same start, same text, same budget; only the question differs.</h1>
<p>{record["documents"]:,} documents, {record["word_pieces"]:,} word pieces to train on; everything is measured on
{record["held_out_documents"]:,} whole documents held out. Each run: {budget} on one thread, rows of {record["length"]}
tokens, {record["batch_size"]} rows a step, {record["seeds"]} seeds; learning rates of
{", ".join(f"{rate:g}" for rate in record["rates"])} {_muon(record["recipe"])}were tried with the first seed, and
the one whose frozen encoder finds replaced tokens best in {record["choice_documents"]:,} other held-out documents was
taken. Intervals are 95 % over the seeds (Student's t). That two objectives differ is claimed only where the
differences seed by seed say so.</p>"""


def _muon(recipe: Record) -> str:
    if recipe["muon_learning_rate"] is None:
        return ""
    return f"({recipe['muon_learning_rate'] / recipe['learning_rate']:.3g} times that for Muon) "


def _curves_picture(record: Record) -> bytes:
    named = {name: curve(record, name) for name in record["objectives"]}
    (baseline,) = record["curve_baseline"].items()
    return comparison_figure(named, record["objectives"], baseline)


def _curves(picture: bytes) -> str:
    return f"""<h2>What a linear head finds in the frozen encoder: which tokens were replaced?</h2>
<div class="wide">{image(picture, "AUC over tokens seen")}</div>
<p class="note">Replaced by draws from the word frequencies. Objectives that ask this very question are at home here;
for the tasks below nobody was trained.</p>"""


def _tokens_to_targets(record: Record) -> str:
    rows = []
    for name in record["objectives"]:
        means = [(tokens, figure.mean) for tokens, figure in curve(record, name)]
        reached = [tokens_to(means, target) for target in TARGETS]
        rows.append([name, *("not reached" if tokens is None else f"{tokens:,.0f}" for tokens in reached)])
    header = ["objective", *(f"AUC {target:g}" for target in TARGETS)]
    return f"<h2>Tokens seen until then</h2>{html_table(rows, header)}"


def _probes(record: Record) -> str:
    return "\n".join(
        _probe_table(record, way, title)
        for way, title in (
            ("frozen", "Other tasks, the encoder frozen"),
            ("fine_tuned", "Other tasks, the encoder fine-tuned"),
        )
    )


def _probe_table(record: Record, way: str, title: str) -> str:
    tasks = record["baselines"]
    rows = [
        [name, *(str(figures(record, name, task, way)) for task in tasks)]
        for name in (*record["objectives"], UNTRAINED)
    ]
    rules = [
        [f"rule: {rule}", *(f"{tasks[task][rule]:.3f}" if rule in tasks[task] else "" for task in tasks)]
        for rule in _rules(tasks)
    ]
    header = ["", *(f"{task} (per {facts['per']}, {facts['metric']})" for task, facts in tasks.items())]
    return f"<h2>{html.escape(title)}</h2>{html_table([*rows, *rules], header)}"


def _differences(record: Record) -> str:
    first = next(iter(record["objectives"]))
    tables = "\n".join(
        f"<h2>Less {html.escape(first)}, seed by seed, {title}</h2>{_difference_table(record, first, way)}"
        for way, title in (("frozen", "the encoder frozen"), ("fine_tuned", "the encoder fine-tuned"))
    )
    return f"""{tables}
<p class="note">Runs of one seed share their start and, where they train, their batches. An interval without 0 says
that the two differ; of many cells one in twenty does so by chance.</p>"""


def _difference_table(record: Record, first: str, way: str) -> str:
    tasks = list(record["baselines"])
    rows = [
        [name, *(f"{difference(record, name, first, task, way):+}" for task in tasks)]
        for name in (*record["objectives"], UNTRAINED)
        if name != first
    ]
    return html_table(rows, ["", *tasks])


def _rules(tasks: Record) -> Sequence[str]:
    found = (rule for facts in tasks.values() for rule in facts if rule not in ("metric", "per"))
    return list(dict.fromkeys(found))


def _signals(record: Record) -> str:
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
    return f"<h2>The signals</h2>{html_table(rows, header)}"


def _alarms(record: Record) -> str:
    lines = dict.fromkeys(
        f"{run['objective']}, learning rate {run['learning_rate']:g}, seed {run['seed']}: {alarm}"
        for run in [*record["tried"], *record["runs"]]
        for alarm in run["alarms"]
    )
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>Alarms</h2><ul>{items}</ul>"
