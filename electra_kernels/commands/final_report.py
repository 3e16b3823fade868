"""The description of a run, and the measurements and the report after its training."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from electra_kernels import backends
from electra_kernels.commands.measurements import Measurements, has_trained_generator
from electra_kernels.commands.planning import Planned
from electra_kernels.commands.progress import Progress
from electra_kernels.commands.run_options import (
    Options,
)
from electra_kernels.data.batch import RowSource
from electra_kernels.data.text import Corpus
from electra_kernels.data.token_cache import TokenCache
from electra_kernels.evaluation.comparison.pair import train_pair
from electra_kernels.evaluation.model_card import write_cards
from electra_kernels.evaluation.real_word_errors import ErrorPairs
from electra_kernels.evaluation.report import make_report, write_metrics, write_report
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training.hardware import device_name
from electra_kernels.training.log import LOG, read_log
from electra_kernels.training.model_folder import load_checkpoint
from electra_kernels.training.objectives import (
    Objective,
)
from electra_kernels.training.profiler import profile_step
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.trainer import Execution
from electra_kernels.training.world import World

STEP_REPEATS = 20  # upper limit; a large model is timed for fewer steps


def describe_run(
    options: Options, recipe: Recipe, cache: TokenCache, planned: Planned, world: World
) -> dict[str, Any]:
    """The part of run.json and metrics.json that says what is run, on which text and on which machine."""
    names = (
        "source",
        "documents",
        "held_out_documents",
        "tokens",
        "held_out_tokens",
        "overlap",
        "vocab_size",
    )
    return {
        "config": options.config,
        "objective": options.objective,
        "from": None if options.start is None else str(options.start),
        "model": str(options.output / "model"),
        "recipe": recipe.to_dict(),
        "text": {name: cache.meta[name] for name in names},
        "execution": {**asdict(planned.execution), "ranks": world.size, "threads": planned.threads},
        "run": {
            "steps": planned.schedule.steps,
            "seed": options.seed,
            "threads": planned.threads,
            "device": device_name(world.device),
            "bfloat16": has_native_bfloat16(world.device),
            "backend": backends().serving["linear_cross_entropy_sample", world.device.type],
            "torch": torch.__version__,
        },
    }


def final_report(
    options: Options,
    objective: Objective,
    recipe: Recipe,
    measurements: Measurements,
    error_pairs: ErrorPairs | str,
    description: dict[str, Any],
    rows: RowSource,
    progress: Progress,
) -> Path:
    """Measure the trained model and write metrics.json and the report; returns its path.

    Args:
        objective: a new one, on the device, whose steps are timed.
    """
    log = read_log(options.output / LOG)
    metrics = {
        **description,
        "evaluations": [_figures(record) for record in log.of_kind("evaluation")],
        "alarms": [f"alarm at step {alarm['step']:,}: {alarm['message']}" for alarm in log.of_kind("alarm")],
    }
    if not has_trained_generator(objective.model):
        metrics |= {"final": (metrics["evaluations"] or [{}])[-1]}
        write_metrics(options.output, metrics)
        write_cards(options.output / "model", metrics)
        return make_report(options.output)
    progress.log("measuring on held-out text")
    device = next(objective.parameters()).device
    model = load_checkpoint(options.output / "model", device).model
    metrics |= measurements.of_electra(model, error_pairs)
    metrics["step_seconds"] = _step_seconds(
        options, objective, rows, recipe, description["execution"], progress
    )
    samples = measurements.samples(model)
    report = write_report(options.output, metrics, samples)
    write_cards(options.output / "model", metrics)
    if options.pair_minutes:
        corpus = Corpus(measurements.training_sample(), measurements.held_out, description["text"]["overlap"])
        with progress.bar("one label per token, one per sequence") as bar:
            metrics["pair"] = train_pair(
                corpus,
                minutes=options.pair_minutes,
                seed=options.seed,
                device=device,
                report=bar.update_pair,
            )
        write_report(options.output, metrics, samples)
    return report


def _step_seconds(
    options: Options,
    objective: Objective,
    rows: RowSource,
    recipe: Recipe,
    execution: dict[str, Any],
    progress: Progress,
) -> dict[str, float] | None:
    """Seconds of the parts of a step on the rows of one rank; None if the memory of the GPU does not suffice."""
    share = replace(recipe, batch_size=recipe.batch_size // execution["ranks"])
    same = Execution(execution["micro_batch"], checkpoint_layers=execution["checkpoint_layers"])
    try:
        return profile_step(objective, rows, share, repeats=STEP_REPEATS, seed=options.seed, execution=same)
    except torch.OutOfMemoryError:
        progress.log(
            "the parts of a step are not timed: the memory of the GPU does not suffice for one more model"
        )
        return None


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    """An evaluation without what only the log needs."""
    return {name: value for name, value in record.items() if name not in ("kind", "time")}
