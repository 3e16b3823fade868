"""A pre-training run: text → token cache → rows → training → model → report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from electra_kernels import backends
from electra_kernels.commands.measurements import Measurements, has_trained_generator
from electra_kernels.commands.planning import Planned, count_flops, plan_run
from electra_kernels.commands.progress import Progress
from electra_kernels.commands.run_folder import RunFolder
from electra_kernels.commands.run_options import (
    Options,
    identity_of,
    objective_class,
    recipe_of,
    row_lengths,
)
from electra_kernels.data.batch import RowSource
from electra_kernels.data.packing import Plan, plan_rows
from electra_kernels.data.prepare import prepare
from electra_kernels.data.rows import PackedRows
from electra_kernels.data.text import Corpus
from electra_kernels.data.token_cache import TokenCache, open_cache
from electra_kernels.errors import AgreedError, UserError
from electra_kernels.evaluation.comparison.pair import train_pair
from electra_kernels.evaluation.real_word_errors import ErrorPairs, error_pairs_or_reason
from electra_kernels.evaluation.report import make_report, write_metrics, write_report
from electra_kernels.files import replace_folder
from electra_kernels.models import Encoder, electra_config
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training import loop
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.checkpoints import Checkpoints
from electra_kernels.training.lock import locked
from electra_kernels.training.log import LOG, Log, read_log
from electra_kernels.training.model_folder import load_checkpoint, save_objective
from electra_kernels.training.objectives import (
    Objective,
    make_objective,
)
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from electra_kernels.training.profiler import profile_step
from electra_kernels.training.recipe import RECIPES, Recipe
from electra_kernels.training.trainer import Trainer
from electra_kernels.training.world import World, join_world

STEP_REPEATS = 20  # upper limit; a large model is timed for fewer steps


def pretrain(options: Options, progress: Progress) -> Path:
    """Train a model and write its checkpoints, log, metrics and report into ``options.output``.

    Returns:
        The path of the report.

    Raises:
        UserError: an option or the text cannot be used, another process writes to the folder, or the folder belongs
            to another run.
        OSError: a file cannot be written before the training begins.
        KeyboardInterrupt: the run was stopped; its argument says what was saved.
    """
    objective_class(options)  # before any work, refuse options that do not go together
    with join_world() as world, _locked(options.output, world):
        folder = RunFolder(options.output)
        world.on_main(folder.check)
        cache = _token_cache(options, world, progress)
        recipe = recipe_of(options)
        identity = identity_of(options, recipe, cache)
        _check_ranks(options, identity, recipe, world)
        known = world.on_main(lambda: _known_run(folder, options, identity))
        sources = {length: _rows(options, cache, length, world) for length in row_lengths(options, recipe)}
        most_pieces = max(rows.plan.most_pieces for rows in sources.values())
        make = partial(_objective, options, recipe, cache, most_pieces)
        planned = plan_run(options, recipe, make, sources, known, world, progress)
        length = planned.schedule.phases[-1].length
        recipe = replace(recipe, length=length, steps=planned.schedule.steps, vocab_size=cache.vocab_size)
        measurements = world.everywhere(lambda: Measurements(cache, length))
        # Downloads come before the training, so that the user learns early of one that fails.
        error_pairs = world.on_main(lambda: error_pairs_or_reason(progress.log))

        trainer = Trainer(
            make(), recipe, planned.schedule, seed=options.seed, world=world, execution=planned.execution
        )
        checkpoints = Checkpoints(folder.checkpoints, world, progress.log)
        begun_from = _restore(options, trainer, checkpoints, known, progress)
        description = _describe(options, recipe, cache, planned, world)

        def write_run() -> None:
            facts = {"identity": identity, "schedule": str(planned.schedule), "begun_from": begun_from}
            run = {**description, "baselines": measurements.baselines(), **facts}
            folder.write_run(run) if known else folder.begin(run)

        world.on_main(write_run)
        flops = count_flops(make, trainer, sources)
        _train(options, trainer, sources, folder, checkpoints, measurements, flops, progress)
        if not world.is_main:
            return folder.folder
        description["run"] |= {"tokens": trainer.position.tokens, "seconds": trainer.position.seconds}
        return _report(
            options,
            make().to(world.device),
            recipe,
            measurements,
            error_pairs,
            description,
            sources[length],
            progress,
        )


@contextmanager
def _locked(output: Path, world: World) -> Iterator[None]:
    """Rank 0 holds the lock of the folder for all ranks."""
    with ExitStack() as stack:
        world.everywhere(lambda: stack.enter_context(locked(output)) if world.is_main else None)
        yield


def _token_cache(options: Options, world: World, progress: Progress) -> TokenCache:
    """The prepared data; rank 0 prepares a text into OUTPUT/data first."""
    folder = options.data
    if folder is None:
        folder = options.output / "data"
        size = options.vocab_size or RECIPES[options.config].vocab_size
        world.on_main(lambda: _prepared(options, folder, size, progress))
    cache = world.everywhere(lambda: open_cache(folder))
    if not cache.counts.any():
        raise AgreedError("too little text: the training documents have no word of the vocabulary")
    return cache


def _prepared(options: Options, folder: Path, vocab_size: int, progress: Progress) -> None:
    with progress.preparing() as show:
        prepare(
            options.text,
            folder,
            vocabulary=options.vocabulary,
            vocab_size=vocab_size,
            cased=options.cased,
            keep_accents=options.keep_accents,
            wrapped=options.wrapped,
            field=options.field,
            log=progress.log,
            progress=show,
        )


def _check_ranks(options: Options, identity: dict[str, Any], recipe: Recipe, world: World) -> None:
    """Refuse ranks with different options or data, and a batch that cannot be shared out."""
    shared = ("output", "resume", "micro_batch", "shard", "checkpoint_layers", "compile")
    execution = {f"--{name.replace('_', '-')}": getattr(options, name) for name in shared}
    for name, value in {**identity, **execution}.items():
        world.require_same(name, value)
    if recipe.batch_size % world.size:
        raise AgreedError(
            f"--batch-size is {recipe.batch_size}, should be a multiple of the number of ranks, {world.size}"
        )


def _known_run(folder: RunFolder, options: Options, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The run in the output folder that this command continues; None for a new run."""
    if options.resume == "never":
        return None
    folder.require_same_run(identity)
    known, asked = folder.known(), _asked_checkpoint(options)
    begun_from = known.get("begun_from") if known else None
    if known and asked and not _is_own(asked, folder.checkpoints) and begun_from != str(asked):
        raise UserError(
            f"--output {folder.folder} holds a run that did not begin with {asked}: choose another folder, or leave "
            "--resume out to continue that run"
        )
    return known


def _objective(options: Options, recipe: Recipe, cache: TokenCache, most_pieces: int) -> Objective:
    """A new objective on the CPU; the seed decides its weights."""
    torch.manual_seed(options.seed)
    if options.generator is not None and options.discriminator is not None:
        return TransformersPair(
            options.generator,
            options.discriminator,
            cache.tokenizer,
            cache.special_ids,
            embeddings=options.embeddings,
        )
    config = electra_config(options.config, vocab_size=cache.vocab_size, mask_token_id=cache.special_ids.mask)
    config = replace(config, whole_word_masking=options.whole_word_masking, max_ngram=options.max_ngram)
    if options.dropout is not None:
        config = config.with_dropout(options.dropout)
    objective = make_objective(options.objective, config, cache.facts, recipe)
    for part in objective.modules():
        if isinstance(part, Encoder):
            part.max_pieces = most_pieces
    return objective


def _rows(options: Options, cache: TokenCache, length: int, world: World) -> PackedRows:
    """The training rows of one length; rank 0 plans them and the others read its plan."""
    pack = options.pack and objective_class(options).packs

    def plan() -> Plan:
        return plan_rows(cache, length, seed=options.seed, pack=pack, folder=options.output / "plans")

    world.on_main(lambda: bool(plan()))
    return PackedRows(cache, world.everywhere(plan))


def _restore(
    options: Options,
    trainer: Trainer,
    checkpoints: Checkpoints,
    known: dict[str, Any] | None,
    progress: Progress,
) -> str | None:
    """Load the state to continue from, if there is one; returns the checkpoint of another run with which it began."""
    asked = _asked_checkpoint(options)
    if asked and _is_own(asked, checkpoints.folder):
        begun_from, is_restored = (
            known.get("begun_from") if known else None,
            checkpoints.restore(trainer, asked),
        )
    else:
        begun_from = known.get("begun_from") if known else asked and str(asked)
        is_restored = known is not None and checkpoints.restore(trainer)
        if not is_restored and begun_from:
            is_restored = checkpoints.restore(trainer, Path(begun_from))
    step, steps = trainer.position.step, trainer.schedule.steps
    if known is None and asked and step >= steps:
        raise AgreedError(f"--resume {asked} is at step {step:,}, should be before the last of {steps:,}")
    if is_restored:
        progress.log(f"continuing at step {step:,} of {steps:,}")
    return begun_from


def _asked_checkpoint(options: Options) -> Path | None:
    return None if options.resume in ("auto", "never") else Path(options.resume).absolute()


def _is_own(checkpoint: Path, folder: Path) -> bool:
    return checkpoint.resolve().parent == folder.resolve()


def _train(
    options: Options,
    trainer: Trainer,
    sources: Mapping[int, RowSource],
    folder: RunFolder,
    checkpoints: Checkpoints,
    measurements: Measurements,
    flops: Sequence[float] | None,
    progress: Progress,
) -> None:
    """Train to the end of the schedule, unless the run that is continued has already reached it."""
    world = trainer.world
    if trainer.position.step >= trainer.schedule.steps:
        progress.log(f"the run in {folder.folder} is finished; --resume never would start it again")
        _finish(trainer, measurements.cache, folder, progress)
        return
    step = trainer.position.step
    log = world.everywhere(
        lambda: Log(folder.folder, step=step, warn=progress.log) if world.is_main else None
    )
    if log is not None:
        log.start(trainer.position.step, trainer.schedule.steps)
    with progress.bar("pre-training") as bar:
        loop.run(
            trainer,
            [sources[phase.length] for phase in trainer.schedule.phases],
            checkpoints=checkpoints,
            log=log,
            monitor=Monitor(measurements.plateau),
            evaluate=lambda: measurements.evaluate(trainer.objective, world),
            save_model=lambda step: _save_model(trainer, measurements.cache, folder.model, progress),
            show=bar.update,
            warn=progress.log,
            save_minutes=options.save_minutes,
            flops=flops,
        )
    if log is not None:
        log.end(trainer.position.step)
    progress.log(f"the model is in {folder.model}")


def _finish(trainer: Trainer, cache: TokenCache, folder: RunFolder, progress: Progress) -> None:
    """Write what a finished training lacks if its last process was killed, or its disk was full, at the very end."""
    world, step = trainer.world, trainer.position.step
    if not _save_model(trainer, cache, folder.model, progress):
        raise AgreedError(
            f"the model cannot be written to {folder.model}: make room, then the same command goes on"
        )

    def end_log() -> None:
        if read_log(folder.folder / LOG).end != "finished":
            Log(folder.folder, step=step, warn=progress.log).end(step)

    world.on_main(end_log)


def _save_model(trainer: Trainer, cache: TokenCache, target: Path, progress: Progress) -> bool:
    """Write the model that users keep: all ranks gather its weights, and rank 0 writes them.

    Returns:
        Whether it is written, on all ranks.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(trainer.objective, options=options)
    objective, step = trainer.objective, trainer.position.step

    def write() -> bool:
        try:
            if isinstance(objective, TransformersPair):
                replace_folder(target, lambda folder: objective.save(folder, state))
            else:
                save_objective(target, objective, cache.tokenizer, trainer.recipe, state)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            progress.log(f"the model of step {step:,} could not be written: {reason}; training goes on")
            return False
        return True

    return trainer.world.on_main(write)


def _describe(
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
        "model": str(options.output / "model"),
        "recipe": recipe.to_dict(),
        "text": {name: cache.meta[name] for name in names},
        "execution": {**asdict(planned.execution), "ranks": world.size, "threads": planned.threads},
        "run": {
            "steps": planned.schedule.steps,
            "seed": options.seed,
            "threads": planned.threads,
            "device": _device_name(world.device),
            "bfloat16": has_native_bfloat16(world.device),
            "backend": backends().serving["linear_cross_entropy_sample", world.device.type],
            "torch": torch.__version__,
        },
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def _report(
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
        write_metrics(options.output, metrics | {"final": metrics["evaluations"][-1]})
        return make_report(options.output)
    progress.log("measuring on held-out text")
    device = next(objective.parameters()).device
    model = load_checkpoint(options.output / "model", device).model
    metrics |= measurements.of_electra(model, error_pairs)
    metrics["step_seconds"] = profile_step(objective, rows, recipe, repeats=STEP_REPEATS, seed=options.seed)
    samples = measurements.samples(model)
    report = write_report(options.output, metrics, samples)
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


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    """An evaluation without what only the log needs."""
    return {name: value for name, value in record.items() if name not in ("kind", "time")}
