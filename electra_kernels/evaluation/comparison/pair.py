"""The controlled pair: same text, same encoder, same corrupted rows, same steps; only the label differs."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from electra_kernels.data.facts import text_facts
from electra_kernels.data.rows import Rows, encode_rows, spread, unigram_counts
from electra_kernels.data.text import Corpus
from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.evaluation.comparison.runs import Curve, evenly_spaced, steps_in, train_with_curve
from electra_kernels.evaluation.comparison.setting import (
    SMALL_RECIPE,
    Run,
    TrainingSetting,
    initial_encoder,
    objective_of,
    small_encoder,
)
from electra_kernels.evaluation.held_out import FixedCorruption, isolated, standard_error
from electra_kernels.evaluation.probing import probe
from electra_kernels.evaluation.probing.replaced_tokens import replaced_tokens
from electra_kernels.models import ElectraConfig
from electra_kernels.training.log import StepRecord
from electra_kernels.training.objectives import Objective
from electra_kernels.training.objectives.detection import RowDetection, TokenDetection
from electra_kernels.training.trainer import Position

CURVE_POINTS = 12
# The rates and the scale of the initial weights are from trials. No rate took the objective with one label per row off
# chance (benchmarks/FINDINGS.md).
LEARNING_RATES = {"corrupted_tokens": 4e-3, "corrupted_rows": 1e-3}
INITIALIZER_RANGE = 0.09
FITTED_ROWS, JUDGED_ROWS = 1_024, 1_024

# (steps so far, finished share of the whole pair, AUCs by their names)
Report = Callable[[int, float, dict[str, float]], None]


def train_pair(
    corpus: Corpus,
    *,
    minutes: float | None = None,
    steps: int = SMALL_RECIPE.steps,
    seed: int,
    device: torch.device,
    report: Report,
) -> dict[str, Any]:
    """Train `corrupted_tokens`, then `corrupted_rows` for as many steps, and compare what they have learned.

    Both start from the same weights, and draw the same batches and corruptions. If ``minutes`` are given, each run
    has the steps that the first makes in half of them.

    Args:
        corpus: training and held-out documents; the pair has its own vocabulary and rows.
        minutes: length of both runs together, or None: each has ``steps``.
        steps: length of each run where ``minutes`` is None.
        seed: seed of the initial weights, the batches and the corruptions.
        device: device of the training.
        report: called at each point of the two curves.

    Returns:
        ``curve``: a list of {step, per_token_tokens, per_token_rows, per_row_rows} (AUC on fixed held-out
        corruptions); ``probe``: AUC for tokens of a linear probe of each frozen encoder, per_token, per_row and
        untrained; ``auc_frequency``: AUC for tokens of their rarity alone; ``standard_error_rows`` and
        ``standard_error_tokens`` of an AUC near chance; ``steps``.
    """
    setting, held_out = pair_setting(corpus)
    judged = _corrupted(held_out, JUDGED_ROWS, setting.text.counts)
    token_run, row_run = pair_runs(seed)
    per_token, per_row = (objective_of(setting, run).to(device) for run in (token_run, row_run))
    follow = partial(_train_and_measure, setting, judged, report)
    if minutes is not None:
        steps = steps_in(minutes / 2, setting, token_run, device)
    _, token_curve = follow("per_token", per_token, token_run, steps, evenly_spaced(CURVE_POINTS))
    _, row_curve = follow("per_row", per_row, row_run, steps, evenly_spaced(CURVE_POINTS))
    task = replaced_tokens(_corrupted(setting.rows, FITTED_ROWS, setting.text.counts), judged)
    encoders = {
        "per_token": per_token.encoder,
        "per_row": per_row.encoder,
        "untrained": initial_encoder(setting, seed).to(device),
    }
    return {
        "curve": [
            {"step": one["step"], **_only_aucs(one), **_only_aucs(other)}
            for one, other in zip(token_curve, row_curve, strict=True)
        ],
        "probe": {name: probe(encoder, task, frozen=True, seed=seed) for name, encoder in encoders.items()},
        "auc_frequency": task.baselines["rarity of the word"],
        "standard_error_rows": _standard_error(judged.is_replaced.any(-1)),
        "standard_error_tokens": _standard_error(judged.is_replaced[judged.maskable]),
        "steps": steps,
    }


def _train_and_measure(
    setting: TrainingSetting,
    judged: FixedCorruption,
    report: Report,
    side: Literal["per_token", "per_row"],
    objective: Objective,
    run: Run,
    steps: int,
    is_due: Callable[[StepRecord, Curve], bool],
) -> tuple[Position, Curve]:
    """Train one side and measure its AUCs, which are named after the side."""
    return train_with_curve(
        objective,
        setting,
        run,
        steps,
        measure=lambda: _aucs(objective, judged, side),
        is_due=is_due,
        report=_at_points(report, 0.0 if side == "per_token" else 0.5),
    )


def pair_runs(seed: int) -> tuple[Run, Run]:
    """The run with one label per token and the run with one label per row."""
    per_token, per_row = (Run(name, rate, seed) for name, rate in LEARNING_RATES.items())
    return per_token, per_row


def pair_setting(corpus: Corpus) -> tuple[TrainingSetting, Rows]:
    """The setting of both runs, and the held-out rows."""
    tokenizer = train_vocabulary(corpus.train, SMALL_RECIPE.vocab_size)
    rows, held_out = (
        encode_rows(part, tokenizer, SMALL_RECIPE.length) for part in (corpus.train, corpus.held_out)
    )
    counts = unigram_counts(rows, tokenizer.get_vocab_size())
    text = text_facts(tokenizer, counts)
    encoder = replace(small_encoder(len(counts)), initializer_range=INITIALIZER_RANGE)
    config = ElectraConfig(encoder, None, text.special_ids.mask, generator_kind="unigram")
    return TrainingSetting(config, text, rows, SMALL_RECIPE), held_out


def _corrupted(rows: Rows, count: int, counts: Tensor) -> FixedCorruption:
    return FixedCorruption(spread(rows, count), counts, share_of_rows=0.5)


def _aucs(objective: Objective, fixed: FixedCorruption, side: str) -> dict[str, float]:
    """AUC of the objective's own head for rows and, if it has a label per token, for tokens."""
    figures, device = {}, next(objective.parameters()).device
    with isolated(objective):
        if isinstance(objective, TokenDetection):
            figures[f"{side}_tokens"] = fixed.token_auc(fixed.scores(objective.token_scores, device))
        assert isinstance(objective, TokenDetection | RowDetection)
        figures[f"{side}_rows"] = fixed.row_auc(fixed.scores(objective.row_scores, device))
    return figures


def _at_points(report: Report, done: float) -> Callable[[StepRecord, Curve], None]:
    """Call ``report`` whenever a point has been added; ``done`` is the finished share before this run."""

    def report_point(record: StepRecord, curve: Curve) -> None:
        if curve[-1]["step"] == record.step:
            report(record.step, done + record.fraction / 2, _only_aucs(curve[-1]))

    return report_point


def _only_aucs(point: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in point.items() if name.startswith("per_")}


def _standard_error(labels: Tensor) -> float:
    positives = int(labels.sum())
    return standard_error(positives, labels.numel() - positives)
