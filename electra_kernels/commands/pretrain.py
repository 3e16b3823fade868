"""``electra-kernels pretrain``: text → vocabulary → rows → training → checkpoint → report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from electra_kernels import backends
from electra_kernels.commands.progress import Progress
from electra_kernels.commands.results import Results
from electra_kernels.data.prepared import Data, read_data
from electra_kernels.data.rows import encode_rows, spread
from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.evaluation import held_out
from electra_kernels.evaluation.colouring import ScoredToken, score_rows
from electra_kernels.evaluation.held_out import FixedCorruption, evaluate_electra, evaluate_objective
from electra_kernels.evaluation.pair import PER_TOKEN, train_pair
from electra_kernels.evaluation.real_word_errors import (
    ErrorPairs,
    count_words,
    error_pairs_or_reason,
    evaluate_real_word_errors,
    real_word_errors,
)
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

EVALUATIONS = 12
CURVE_ROWS, FINAL_ROWS = 192, 1_024
SAMPLES = 8
STEP_REPEATS = 20  # at the most; a big model gets fewer


@dataclass(frozen=True)
class Options:
    """What the command line asks for; None leaves a number to the configuration."""

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
    """Run it all; returns the path of the report, or of metrics.json for an objective without a model as generator.

    Raises:
        UserError: a mistake in the options or the text, or the folder is in use or holds what is not ours.
        OSError: a file cannot be written.
        KeyboardInterrupt: with a line that says where the model is that was saved last.
    """
    _check_objective(options)
    with locked(options.output):
        results = Results(options.output)
        try:
            return _pretrain(options, results, progress)
        except KeyboardInterrupt as stop:
            raise type(stop)(results.saved()) from None


def _pretrain(options: Options, results: Results, progress: Progress) -> Path:
    recipe = _recipe(options)
    data = read_data(options.text, options.vocabulary, recipe, progress.say)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective = _objective(options, recipe, data).to(device)
    # Downloads come before the training, so that what is missing is known before it.
    pairs = error_pairs_or_reason(progress.say) if _has_report(objective.model) else []
    state, curves = _train(options, recipe, data, objective, results, progress)
    progress.say(f"the model is in {results.model}")
    metrics = _describe(options, data, state, device) | curves
    model = objective.model
    if not _has_report(model):
        rows = spread(data.held_out, FINAL_ROWS)
        metrics["final"] = _evaluate(objective, FixedCorruption(rows, data.counts))
        return write_metrics(options.output, metrics)
    metrics |= _measure(options, data, model, pairs, progress)
    metrics["step_seconds"] = profile_step(
        objective, data.train, recipe, repeats=STEP_REPEATS, seed=options.seed
    )
    samples = coloured_samples(model, data)
    report_path = write_report(options.output, metrics, samples)
    if options.pair_minutes:
        metrics["pair"] = _pair(options, data, device, progress)
        write_report(options.output, metrics, samples)
    return report_path


def _train(
    options: Options, recipe: Recipe, data: Data, objective: Objective, results: Results, progress: Progress
) -> tuple[State, dict[str, Any]]:
    """Train and save; returns where the run ended, and "evaluations" and "alarms" on the way."""
    fixed = FixedCorruption(spread(data.held_out, CURVE_ROWS), data.counts)
    evaluations: list[dict[str, float]] = []
    alarms: list[str] = []
    monitor = Monitor(held_out.unigram_entropy(data.held_out, data.counts))
    budget = Budget(recipe.steps, options.minutes)
    with progress.bar("pre-training") as bar:

        def report(state: State) -> None:
            for alarm in map(str, monitor.check(state)):
                alarms.append(alarm)
                progress.say(alarm)
            if state.fraction >= len(evaluations) / EVALUATIONS:
                figures = _evaluate(objective, fixed)
                evaluations.append({"step": state.step, "seconds": state.seconds, **figures})
                # An interrupted run keeps what it had learned by now.
                results.save_model(state.step, partial(_save, objective, data.tokenizer, recipe))
            bar.update(state, evaluations[-1] if evaluations else {})

        state = train(objective, data.train, recipe, budget, seed=options.seed, report=report)
    return state, {"evaluations": evaluations, "alarms": alarms}


def _recipe(options: Options) -> Recipe:
    recipe = RECIPES[options.config]
    return replace(
        recipe,
        vocab_size=options.vocab_size or recipe.vocab_size,
        steps=options.steps or recipe.steps,
        batch_size=options.batch_size or recipe.batch_size,
    )


def _check_objective(options: Options) -> None:
    if options.objective not in OBJECTIVES:
        raise UserError(f"--objective is {options.objective}, should be one of {', '.join(OBJECTIVES)}")
    if options.pair_minutes and not issubclass(OBJECTIVES[options.objective], ReplacedTokenDetection):
        raise UserError(
            f"--pair-minutes is given with --objective {options.objective}, should be left out: it is a part of the "
            "report, which is of replaced_tokens"
        )


def _objective(options: Options, recipe: Recipe, data: Data) -> Objective:
    facts, objective = data.facts, OBJECTIVES[options.objective]
    config = electra_config(options.config, vocab_size=data.vocab_size, mask_token_id=facts.special_ids.mask)
    torch.manual_seed(options.seed)
    if issubclass(objective, GeneratorObjective):
        return objective(
            config,
            facts,
            head_start=recipe.head_start,
            head_start_replacements=recipe.head_start_replacements,
        )
    return objective(config, facts)


def _evaluate(objective: Objective, fixed: FixedCorruption) -> dict[str, float]:
    model = objective.model
    electra = evaluate_electra(model, fixed) if isinstance(model, Electra) else {}
    if _has_report(model):
        return electra
    return electra | evaluate_objective(objective, fixed.rows)


def _has_report(model: nn.Module) -> TypeGuard[Electra]:
    return isinstance(model, Electra) and model.generator is not None


def _save(objective: Objective, tokenizer: Tokenizer, recipe: Recipe, directory: Path) -> None:
    if isinstance(objective.model, Electra):
        save_checkpoint(directory, Checkpoint(objective.model, tokenizer, recipe, objective.name))
    else:
        save_encoder(directory, EncoderCheckpoint(objective.encoder, tokenizer, recipe, objective.name))


def _measure(
    options: Options, data: Data, model: Electra, pairs: ErrorPairs | str, progress: Progress
) -> dict[str, Any]:
    """Everything that is measured on held-out text once the training is over."""
    progress.say("measuring on held-out text")
    rows = spread(data.held_out, FINAL_ROWS)
    fixed = FixedCorruption(rows, data.counts)
    recipe = _recipe(options)
    return {
        "final": evaluate_electra(model, fixed),
        "baselines": {
            "auc_frequency": fixed.token_auc(held_out.rarity(fixed.input_ids, data.counts)),
            "unigram_entropy": held_out.unigram_entropy(rows, data.counts),
        },
        "real_word_errors": _real_word_errors(model, data, recipe, pairs),
        "pair": None,
    }


def _describe(options: Options, data: Data, state: State, device: torch.device) -> dict[str, Any]:
    """What was run, on what."""
    return {
        "config": options.config,
        "objective": options.objective,
        "model": str(options.output / "model"),
        "recipe": _recipe(options).to_dict(),
        "text": {
            "source": data.source,
            "documents": len(data.corpus.train),
            "held_out_documents": len(data.corpus.held_out),
            "tokens": int(data.train.maskable.sum()),
            "held_out_tokens": int(data.held_out.maskable.sum()),
            "overlap": data.corpus.overlap,
            "vocab_size": data.vocab_size,
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


def _real_word_errors(model: Electra, data: Data, recipe: Recipe, pairs: ErrorPairs | str) -> dict[str, Any]:
    if isinstance(pairs, str):
        return {"reason": pairs}
    device = next(model.parameters()).device
    word_counts = count_words(data.corpus.train)

    def score(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return model.discriminator.logits(input_ids.to(device), attention_mask.to(device)).cpu()

    items = real_word_errors(data.corpus.held_out, word_counts, pairs)
    try:
        with held_out.isolated(model):
            return evaluate_real_word_errors(items, data.tokenizer, score, word_counts, recipe.length)
    except UserError as error:  # no sentence has room for one
        return {"reason": str(error)}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def _pair(options: Options, data: Data, device: torch.device, progress: Progress) -> dict[str, Any]:
    """The pair has a vocabulary and rows of its own, of the same text."""
    tokenizer = train_vocabulary(data.corpus.train, PER_TOKEN.vocab_size)
    rows, held_out = (
        encode_rows(part, tokenizer, PER_TOKEN.length) for part in (data.corpus.train, data.corpus.held_out)
    )
    budget = Budget(PER_TOKEN.steps, options.pair_minutes)
    with progress.bar("one label per token, one per sequence") as bar:
        return train_pair(
            rows,
            spread(held_out, FINAL_ROWS),
            tokenizer.get_vocab_size(),
            budget,
            seed=options.seed,
            device=device,
            report=bar.update_pair,
        )


def coloured_samples(model: Electra, data: Data) -> list[list[ScoredToken]]:
    """Held-out rows with the generator's replacements, scored by the discriminator."""
    rows = spread(data.held_out, SAMPLES)
    device = next(model.parameters()).device
    with held_out.isolated(model):
        ids, mask, maskable = (
            part.to(device) for part in (rows.input_ids, rows.attention_mask, rows.maskable)
        )
        replaced = model(ids, mask, maskable).replaced
        return score_rows(model.discriminator, data.tokenizer, replaced.input_ids, mask, ids)
