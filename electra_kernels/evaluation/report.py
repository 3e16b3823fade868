"""The report of a run: one HTML page with its pictures inside, and the curves as PNG files.

It is made of the files in the output folder, so it can be made while the run is going on.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from electra_kernels.evaluation import figures
from electra_kernels.evaluation.colouring import ScoredToken
from electra_kernels.evaluation.comparison.pair import LEARNING_RATES
from electra_kernels.evaluation.pages import render
from electra_kernels.evaluation.run_curves import NAMES, Records, learning_pictures, machine_pictures
from electra_kernels.evaluation.run_files import METRICS as METRICS
from electra_kernels.evaluation.run_files import Run, read_run, write_metrics
from electra_kernels.files import write_whole
from electra_kernels.training.log import finite as finite

PAGES = ("report.html", *(f"{name}.png" for name in NAMES))  # what `make_report` writes

_SILENCE = 600.0  # seconds without a record after which a run may have been killed

# Name of a metric on held-out text → how the summary calls it, and its format.
SUMMARY = {
    "auc_random": ("AUC, fixed random replacements", ".3f"),
    "auc_frequency": ("the same by the rarity of the word alone", ".3f"),
    "auc_samples": ("AUC, the generator's own samples", ".3f"),
    "auc_samples_frequency": ("the same by the rarity of the word alone", ".3f"),
    "recall": ("share of the replaced tokens found at probability 0.5", ".1%"),
    "rtd_loss": ("replaced-token detection, nats per token", ".3f"),
    "base_rate_entropy": ("the same by always predicting the share of replaced tokens", ".3f"),
    "replaced": ("share of the tokens that are replaced", ".1%"),
    "mlm_loss": ("masked tokens, nats per token", ".2f"),
    "unigram_entropy": ("the same by word frequency alone", ".2f"),
    "mlm_accuracy": ("masked tokens predicted", ".1%"),
    "sampled_accuracy": ("samples equal to the original", ".1%"),
}


def write_report(
    directory: Path, metrics: dict[str, Any], samples: Sequence[Sequence[ScoredToken]] = ()
) -> Path:
    """Write metrics.json with the coloured samples, then the report; returns its path."""
    tokens = [[asdict(token) for token in sample] for sample in samples]
    write_metrics(directory, metrics | {"samples": tokens})
    return make_report(directory)


def make_report(directory: Path) -> Path:
    """Write report.html and the curves of the run in ``directory``, which may be going on; returns the page's path.

    Raises:
        UserError: ``directory`` is not the output of a run.
        OSError: a file cannot be read or written.
    """
    run = read_run(directory)
    records = Records(run.log.of_kind("step"), run.evaluations, run.baselines, run.resumed)
    learning, machine = learning_pictures(records), machine_pictures(records)
    for name, picture in (learning | machine).items():
        write_whole(directory / f"{name}.png", picture)
    page = directory / "report.html"
    write_whole(page, report_page(run, learning, machine))
    return page


def report_page(run: Run, learning: Mapping[str, bytes], machine: Mapping[str, bytes]) -> str:
    """The HTML of the report, with the pictures of `run_curves` in it."""
    results = run.results or {}
    pair, errors, step_seconds = (results.get(name) for name in ("pair", "real_word_errors", "step_seconds"))
    return render(
        "report.html",
        objective=_words(run.options.get("objective", "a model")),
        config=run.options.get("config"),
        status=_status(run),
        pair=pair,
        pair_pictures=[figures.pair_rows_figure(pair), figures.pair_tokens_figure(pair)] if pair else [],
        pair_rates=list(LEARNING_RATES.values()),
        text=run.options.get("text"),
        facts=_facts(run),
        summary_title="Held-out text" + ("" if results else ", so far"),
        summary=_summary(run),
        alarms=run.alarms,
        samples=[[ScoredToken(**token) for token in sample] for sample in results.get("samples", [])],
        model=results.get("model", str(run.folder / "model")),
        real_word_errors=errors,
        error_scores=_error_scores(errors or {}),
        learning=learning,
        machine=machine,
        step_picture=figures.step_figure(step_seconds) if step_seconds else None,
    )


def _status(run: Run) -> str | None:
    """How far a run is that has no results yet."""
    if run.results is not None:
        return None
    log = run.log
    if not log.records:
        return "The training has not begun."
    of = "" if not log.steps else f" of {log.steps:,} ({log.step / log.steps:.0%})"
    last = datetime.fromtimestamp(log.records[-1]["time"], timezone.utc)
    written = f"The last record is of {last:%Y-%m-%d %H:%M:%S} UTC."
    if log.end == "finished":
        return f"All {log.step:,} steps are done; the measurements after the training are not there yet. {written}"
    if log.end is not None:
        return f"Stopped at step {log.step:,}{of}: {log.end}. The same command resumes it. {written}"
    remaining = _remaining(run)
    left = "" if remaining is None else f", about {timedelta(seconds=round(remaining))} left"
    if time.time() - log.records[-1]["time"] > _SILENCE:
        written += " If the run is no longer going on, the same command resumes it."
    return f"In progress: step {log.step:,}{of}{left}. {written}"


def _remaining(run: Run) -> float | None:
    """Seconds until the last step, at the rate since the run began or was last resumed."""
    log = run.log
    starts = [record for record in log.records if record["kind"] in ("start", "step")][:1] + log.of_kind(
        "start"
    )
    if not starts or not log.steps or log.step <= starts[-1]["step"]:
        return None
    rate = (log.records[-1]["time"] - starts[-1]["time"]) / (log.step - starts[-1]["step"])
    return rate * (log.steps - log.step)


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was run, for how long and where; what is not known is left out."""
    options = {
        "config": "",
        "objective": "",
        "recipe": {},
        "execution": {},
        "run": {},
        "schedule": "",
    } | run.options
    recipe, about = options["recipe"], {**options["execution"], **options["run"]}
    steps = run.log.of_kind("step")
    about |= {name: steps[-1][name] for name in ("tokens", "seconds") if steps and name in steps[-1]}
    about |= (run.results or {}).get("run", {})
    total = run.log.steps or about.get("steps") or 0
    rows = [("configuration", options["config"]), ("objective", _words(options["objective"]))]
    if {"batch_size", "length"} <= recipe.keys():
        rows.append(("rows per step", f"{recipe['batch_size']:,} of {recipe['length']:,} tokens"))
    rows.append(("schedule", options["schedule"]))
    rows.append(("steps", f"{run.log.step:,} of {total:,}" if run.results is None else f"{total:,}"))
    if about.get("seconds") and "tokens" in about:
        rows += [
            ("tokens", f"{about['tokens']:,}"),
            ("time", f"{timedelta(seconds=round(about['seconds']))}"),
            ("speed", f"{about['tokens'] / about['seconds']:,.0f} tokens/s"),
        ]
    rows.append(("resumed at step", ", ".join(f"{step:,}" for step in run.resumed)))
    rows.append(("device", _device(about)))
    rows.append(("each rank", _execution(about)))
    rows += [(label, about.get(name, "")) for name, label in (("backend", "back end"), ("torch", "torch"))]
    rows.append(("seed", str(about.get("seed", ""))))
    return [row for row in rows if row[1]]


def _device(about: Mapping[str, Any]) -> str:
    ranks = f"{about['ranks']} × " if about.get("ranks", 1) > 1 else ""
    threads = f", threads: {about['threads']}" if about.get("threads") else ""
    return f"{ranks}{about.get('device', '')}{threads}{', bfloat16' if about.get('bfloat16') else ''}"


def _execution(about: Mapping[str, Any]) -> str:
    """The choices of how a step is computed that are on."""
    chosen = [f"{about['micro_batch']:,} rows at a time"] if about.get("micro_batch") else []
    return ", ".join(
        chosen + [_words(name) for name in ("shard", "checkpoint_layers", "compile") if about.get(name)]
    )


def _summary(run: Run) -> list[tuple[str, str]]:
    """The metrics on held-out text: those after the training, or of the last evaluation."""
    last = (run.results or {}).get("final") or (run.evaluations[-1] if run.evaluations else {})
    metrics = {name: value for name, value in last.items() if isinstance(value, int | float)}
    known = {name: value for name, value in (metrics | run.baselines).items() if name in SUMMARY}
    rows = [(label, format(known[name], form)) for name, (label, form) in SUMMARY.items() if name in known]
    others = metrics.keys() - known.keys() - {"step", "seconds", "time"}
    return rows + [(_words(name), f"{metrics[name]:.4g}") for name in metrics if name in others]


def _error_scores(errors: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "auc" not in errors:
        return []
    return [
        ("the discriminator", f"{errors['auc']:.3f}"),
        ("rarity of the word", f"{errors['auc_word_frequency']:.3f}"),
        ("number of word pieces", f"{errors['auc_word_pieces']:.3f}"),
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")
