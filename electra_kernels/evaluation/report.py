"""The report of a run: one HTML page with its pictures inside, metrics.json with every figure, the curves as PNG."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from electra_kernels.evaluation import figures
from electra_kernels.evaluation.colouring import ScoredToken
from electra_kernels.evaluation.comparison.pair import LEARNING_RATES
from electra_kernels.evaluation.pages import render
from electra_kernels.files import write_whole

METRICS = "metrics.json"
PAGES = (
    "report.html",
    "auc.png",
    "mlm_loss.png",
    "rtd_loss.png",
)  # `write_report` makes these from the metrics


def write_report(directory: Path, metrics: dict[str, Any], samples: Sequence[Sequence[ScoredToken]]) -> Path:
    """Write metrics.json, the learning curves as PNG, and report.html, which shows both; returns its path."""
    write_metrics(directory, metrics)
    curves = _curves(metrics)
    for name, picture in curves.items():
        write_whole(directory / f"{name}.png", picture)
    page = directory / "report.html"
    write_whole(page, report_page(metrics, samples, curves))
    return page


def report_page(
    metrics: dict[str, Any], samples: Sequence[Sequence[ScoredToken]], curves: dict[str, bytes]
) -> str:
    """The HTML of the report."""
    pair = metrics["pair"]
    return render(
        "report.html",
        **metrics,
        pair_pictures=[]
        if pair is None
        else [figures.pair_rows_figure(pair), figures.pair_tokens_figure(pair)],
        pair_rates=list(LEARNING_RATES.values()),
        summary=_summary(metrics["final"], metrics["baselines"]),
        samples=samples,
        error_scores=_error_scores(metrics["real_word_errors"]),
        curves=curves,
        step_picture=figures.step_figure(metrics["step_seconds"]),
    )


def write_metrics(directory: Path, metrics: dict[str, Any]) -> Path:
    """Write metrics.json alone; returns its path."""
    path = directory / METRICS
    write_whole(path, json.dumps(finite(metrics), indent=2, allow_nan=False) + "\n")
    return path


def finite(values: Any) -> Any:
    """The same values with None for NaN and infinity, which JSON does not have."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _summary(final: dict[str, float], baselines: dict[str, float]) -> list[tuple[str, str]]:
    rows = [
        ("AUC, fixed random replacements", f"{final['auc_random']:.3f}"),
        ("the same by the rarity of the word alone", f"{baselines['auc_frequency']:.3f}"),
    ]
    if "mlm_loss" in final:
        rows += [
            ("AUC, the generator's own samples", f"{final['auc_samples']:.3f}"),
            ("the same by the rarity of the word alone", f"{final['auc_samples_frequency']:.3f}"),
            ("share of these found at probability 0.5", f"{final['recall']:.1%}"),
            ("generator, nats per masked token", f"{final['mlm_loss']:.2f}"),
            ("the same by word frequency alone", f"{baselines['unigram_entropy']:.2f}"),
            ("generator, masked tokens right", f"{final['mlm_accuracy']:.1%}"),
        ]
    return rows


def _error_scores(errors: dict[str, Any]) -> list[tuple[str, str]]:
    if "reason" in errors:
        return []
    return [
        ("the discriminator", f"{errors['auc']:.3f}"),
        ("rarity of the word", f"{errors['auc_word_frequency']:.3f}"),
        ("number of word pieces", f"{errors['auc_word_pieces']:.3f}"),
    ]


def _curves(metrics: dict[str, Any]) -> dict[str, bytes]:
    """Name → PNG of what was measured on held-out text during the run."""
    evaluations, baselines = metrics["evaluations"], metrics["baselines"]
    pictures = {"auc": figures.auc_figure(evaluations, baselines["auc_frequency"])}
    if "mlm_loss" in evaluations[-1]:
        pictures["mlm_loss"] = figures.mlm_figure(evaluations, baselines["unigram_entropy"])
        pictures["rtd_loss"] = figures.rtd_figure(evaluations)
    return pictures
