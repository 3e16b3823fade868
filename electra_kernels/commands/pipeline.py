"""A pre-training run: text → vocabulary → rows → training → checkpoint → report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from electra_kernels import backends
from electra_kernels.commands.measurements import (
    FINAL_ROWS,
    coloured_samples,
    evaluate_held_out,
    has_trained_generator,
    measure_electra,
)
from electra_kernels.commands.progress import Progress
from electra_kernels.commands.results import Results
from electra_kernels.data.prepared import PreparedText, prepare_text
from electra_kernels.data.rows import spread
from electra_kernels.errors import UserError
from electra_kernels.evaluation.comparison.pair import train_pair
from electra_kernels.evaluation.held_out import FixedCorruption, unigram_entropy
from electra_kernels.evaluation.real_word_errors import error_pairs_or_reason
from electra_kernels.evaluation.report import write_metrics, write_report
from electra_kernels.models import Electra, electra_config
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.checkpoint import (
    Checkpoint,
    EncoderCheckpoint,
    save_checkpoint,
    save_encoder,
)
from electra_kernels.training.lock import locked
from electra_kernels.training.objectives import (
    OBJECTIVES,
    GeneratorObjective,
    Objective,
    ReplacedTokenDetection,
)
from electra_kernels.training.profiler import profile_step
from electra_kernels.training.recipe import RECIPES, Recipe
from electra_kernels.training.schedule import Budget
from electra_kernels.training.trainer import State, train

EVALUATIONS = 12  # during the training
CURVE_ROWS = 192  # held-out rows of each of them
STEP_REPEATS = 20  # upper limit; a large model is timed for fewer steps


@dataclass(frozen=True)
class Options:
    """The options of ``electra-kernels pretrain``; None leaves a number to the configuration."""

    output: Path
    objective: str = "replaced_tokens"
    config: str = "demo"
    text: Sequence[Path] = ()
    vocabulary: Path | None = None
    vocab_size: int | None = None
    minutes: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    pair_minutes: float = 0.0
    seed: int = 0


def pretrain(options: Options, progress: Progress) -> Path:
    """Train a model and write its checkpoint, metrics and report into ``options.output``.

    Returns:
        The path of the report, or of metrics.json if the objective has no model as generator.

    Raises:
        UserError: an option or the text cannot be used, another process writes to the folder, or the folder holds
            results of another program.
        OSError: a file cannot be written.
        KeyboardInterrupt: the run was stopped; its argument names the model that was saved last.
    """
    _check_objective(options)
    with locked(options.output):
        results = Results(options.output)
        try:
            return _pretrain(options, results, progress)
        except KeyboardInterrupt as stop:
            raise type(stop)(results.last_saved()) from None


def _pretrain(options: Options, results: Results, progress: Progress) -> Path:
    recipe = _recipe(options)
    text = prepare_text(
        options.text,
        options.vocabulary,
        length=recipe.length,
        vocab_size=recipe.vocab_size,
        log=progress.log,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective = _objective(options, recipe, text).to(device)
    model = objective.model
    # Downloads come before the training, so that the user learns early of one that fails.
    error_pairs = error_pairs_or_reason(progress.log) if has_trained_generator(model) else []

    state, curves = _train(options, recipe, text, objective, results, progress)
    progress.log(f"the model is in {results.model}")

    metrics = _describe(options, recipe, text, state, device) | curves
    if not has_trained_generator(model):
        rows = spread(text.held_out, FINAL_ROWS)
        metrics["final"] = evaluate_held_out(objective, FixedCorruption(rows, text.counts))
        return write_metrics(options.output, metrics)
    progress.log("measuring on held-out text")
    metrics |= measure_electra(model, text, recipe.length, error_pairs)
    metrics["step_seconds"] = profile_step(
        objective, text.train, recipe, repeats=STEP_REPEATS, seed=options.seed
    )
    samples = coloured_samples(model, text)
    report = write_report(options.output, metrics, samples)
    if options.pair_minutes:
        metrics["pair"] = _pair(options, text, device, progress)
        write_report(options.output, metrics, samples)
    return report


def _check_objective(options: Options) -> None:
    if options.objective not in OBJECTIVES:
        raise UserError(f"--objective is {options.objective}, should be one of {', '.join(OBJECTIVES)}")
    if options.pair_minutes and not issubclass(OBJECTIVES[options.objective], ReplacedTokenDetection):
        raise UserError(
            f"--pair-minutes is given with --objective {options.objective}, should be left out: the pair is part of "
            "the report on replaced tokens"
        )


def _recipe(options: Options) -> Recipe:
    recipe = RECIPES[options.config]
    return replace(
        recipe,
        vocab_size=options.vocab_size or recipe.vocab_size,
        steps=options.steps or recipe.steps,
        batch_size=options.batch_size or recipe.batch_size,
    )


def _objective(options: Options, recipe: Recipe, text: PreparedText) -> Objective:
    facts, objective = text.facts, OBJECTIVES[options.objective]
    config = electra_config(options.config, vocab_size=text.vocab_size, mask_token_id=facts.special_ids.mask)
    torch.manual_seed(options.seed)
    if issubclass(objective, GeneratorObjective):
        return objective(
            config,
            facts,
            head_start=recipe.head_start,
            head_start_replacements=recipe.head_start_replacements,
        )
    return objective(config, facts)


def _train(
    options: Options,
    recipe: Recipe,
    text: PreparedText,
    objective: Objective,
    results: Results,
    progress: Progress,
) -> tuple[State, dict[str, Any]]:
    """Train; evaluate and save the model several times on the way.

    Returns:
        The state at the end, and the lists "evaluations" and "alarms" for metrics.json.
    """
    fixed = FixedCorruption(spread(text.held_out, CURVE_ROWS), text.counts)
    monitor = Monitor(unigram_entropy(text.held_out, text.counts))
    budget = Budget(recipe.steps, options.minutes)
    evaluations: list[dict[str, float]] = []
    alarms: list[str] = []
    with progress.bar("pre-training") as bar:

        def report(state: State) -> None:
            for alarm in map(str, monitor.check(state)):
                alarms.append(alarm)
                progress.log(alarm)
            if state.fraction >= len(evaluations) / EVALUATIONS:
                figures = evaluate_held_out(objective, fixed)
                evaluations.append({"step": state.step, "seconds": state.seconds, **figures})
                results.save_model(state.step, partial(_save, objective, text.tokenizer, recipe))
            bar.update(state, evaluations[-1] if evaluations else {})

        state = train(objective, text.train, recipe, budget, seed=options.seed, report=report)
    return state, {"evaluations": evaluations, "alarms": alarms}


def _save(objective: Objective, tokenizer: Tokenizer, recipe: Recipe, directory: Path) -> None:
    if isinstance(objective.model, Electra):
        save_checkpoint(directory, Checkpoint(objective.model, tokenizer, recipe, objective.name))
    else:
        save_encoder(directory, EncoderCheckpoint(objective.encoder, tokenizer, recipe, objective.name))


def _describe(
    options: Options, recipe: Recipe, text: PreparedText, state: State, device: torch.device
) -> dict[str, Any]:
    """The part of metrics.json that says what was run, on which text and on which machine."""
    return {
        "config": options.config,
        "objective": options.objective,
        "model": str(options.output / "model"),
        "recipe": recipe.to_dict(),
        "text": {
            "source": text.source,
            "documents": len(text.corpus.train),
            "held_out_documents": len(text.corpus.held_out),
            "tokens": int(text.train.maskable.sum()),
            "held_out_tokens": int(text.held_out.maskable.sum()),
            "overlap": text.corpus.overlap,
            "vocab_size": text.vocab_size,
        },
        "run": {
            "steps": state.step,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "seed": options.seed,
            "threads": torch.get_num_threads(),
            "device": _device_name(device),
            "bfloat16": has_native_bfloat16(device),
            "backend": backends().serving["linear_cross_entropy_sample", device.type],
            "torch": torch.__version__,
        },
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def _pair(options: Options, text: PreparedText, device: torch.device, progress: Progress) -> dict[str, Any]:
    """Train the controlled pair, which has its own vocabulary and rows of the same text."""
    with progress.bar("one label per token, one per sequence") as bar:
        return train_pair(
            text.corpus,
            minutes=options.pair_minutes,
            seed=options.seed,
            device=device,
            report=bar.update_pair,
        )
