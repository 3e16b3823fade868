"""A pre-training run: text → token cache → rows → training → model → report."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from electra_kernels import backends
from electra_kernels._version import __version__
from electra_kernels.commands.measurements import Measurements
from electra_kernels.commands.progress import Progress
from electra_kernels.commands.run_folder import RunFolder
from electra_kernels.data.batch import RowSource
from electra_kernels.data.packing import plan_rows
from electra_kernels.data.prepare import prepare
from electra_kernels.data.rows import PackedRows
from electra_kernels.data.token_cache import TokenCache, open_cache
from electra_kernels.errors import UserError
from electra_kernels.models import electra_config
from electra_kernels.training import loop
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.calibration import (
    choose_micro_batch,
    choose_threads,
    step_seconds,
    steps_of_minutes,
)
from electra_kernels.training.checkpoints import Checkpoints
from electra_kernels.training.lock import locked
from electra_kernels.training.log import Log
from electra_kernels.training.objectives import OBJECTIVES, Objective, make_objective
from electra_kernels.training.recipe import RECIPES, Recipe
from electra_kernels.training.schedule import Phase, Schedule
from electra_kernels.training.trainer import Execution, Position, Trainer
from electra_kernels.training.world import World, join_world


@dataclass(frozen=True)
class Options:
    """The options of ``electra-kernels pretrain``; None leaves a number to the configuration.

    The first group decides the result of a run, together with the data. The second decides only how it is computed.
    """

    output: Path
    text: Sequence[Path] = ()
    data: Path | None = None
    config: str = "demo"
    objective: str = "replaced_tokens"
    vocabulary: Path | None = None
    vocab_size: int | None = None
    minutes: float | None = None
    steps: int | None = None
    phases: Schedule | None = None
    batch_size: int | None = None
    pack: bool = True
    seed: int = 0

    micro_batch: int | None = None
    shard: bool = False
    checkpoint_layers: bool = False
    compile: bool = False
    threads: int | None = None
    save_minutes: float = 30.0
    resume: str = "auto"
    pair_minutes: float = 0.0



@dataclass(frozen=True)
class _Plan:
    """What is decided before the first step, and kept in run.json for a resumed run."""

    schedule: Schedule
    execution: Execution
    threads: int


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
    _check_objective(options)
    with join_world() as world, _locked(options.output, world):
        folder = RunFolder(options.output)
        world.on_main(folder.check)
        cache = _token_cache(options, world, progress)
        recipe = _recipe(options)
        identity = _identity(options, recipe, cache)
        _check_ranks(identity, recipe, world)
        known = world.on_main(lambda: _known_run(folder, options, identity))
        make = partial(_objective, options, recipe, cache)
        sources = {length: _rows(options, cache, length, make, world) for length in _lengths(options, recipe)}
        plan = _plan(options, recipe, make, sources, known, world, progress)
        torch.set_num_threads(plan.threads)
        recipe = replace(recipe, length=plan.schedule.phases[-1].length, steps=plan.schedule.steps)
        trainer = Trainer(
            make(), recipe, plan.schedule, seed=options.seed, world=world, execution=plan.execution
        )
        checkpoints = Checkpoints(folder.checkpoints, world, progress.log)
        trainer.position = _restored(options, trainer, checkpoints, known)
        description = _describe(options, recipe, cache, plan, world)
        if world.is_main:
            run = {"identity": identity, **description, "schedule": str(plan.schedule)}
            folder.write_run(run) if known else folder.begin(run)
        measurements = Measurements(cache, recipe.length, trainer.objective, world)
        _train(options, trainer, sources, folder, checkpoints, measurements, description, progress)
        return _finish(options, folder, make, measurements, description, sources, progress)


@contextmanager
def _locked(output: Path, world: World) -> Iterator[None]:
    """Rank 0 holds the lock of the folder for all ranks."""
    with ExitStack() as stack:
        world.everywhere(lambda: stack.enter_context(locked(output)) if world.is_main else None)
        yield


def _check_objective(options: Options) -> None:
    if options.objective not in OBJECTIVES:
        raise UserError(f"--objective is {options.objective}, should be one of {', '.join(OBJECTIVES)}")
    if options.pair_minutes and not issubclass(OBJECTIVES[options.objective], ReplacedTokenDetection):
        raise UserError(
            f"--pair-minutes is given with --objective {options.objective}, should be left out: the pair is part of "
            "the report on replaced tokens"
        )


def _token_cache(options: Options, world: World, progress: Progress) -> TokenCache:
    """The prepared data; rank 0 prepares a text into OUTPUT/data first."""
    folder = options.data
    if folder is None:
        folder = options.output / "data"
        size = options.vocab_size or RECIPES[options.config].vocab_size
        world.on_main(lambda: _prepared(options, folder, size, progress))
    return world.everywhere(lambda: open_cache(folder))


def _prepared(options: Options, folder: Path, vocab_size: int, progress: Progress) -> None:
    with progress.preparing() as show:
        prepare(
            options.text,
            folder,
            vocabulary=options.vocabulary,
            vocab_size=vocab_size,
            log=progress.log,
            progress=show,
        )


def _recipe(options: Options) -> Recipe:
    recipe = RECIPES[options.config]
    return replace(recipe, batch_size=options.batch_size or recipe.batch_size)


def _lengths(options: Options, recipe: Recipe) -> list[int]:
    """The row lengths of the phases, each once."""
    return list(dict.fromkeys(phase.length for phase in _schedule(options, recipe).phases))


def _schedule(options: Options, recipe: Recipe) -> Schedule:
    """The schedule as it was asked for, before ``minutes`` are turned into steps."""
    return options.phases or one_phase(recipe.length, options.steps or recipe.steps)


def _identity(options: Options, recipe: Recipe, cache: TokenCache) -> dict[str, Any]:
    """Everything that decides the result of a run, in the words of the command line."""
    return {
        "--config": options.config,
        "--objective": options.objective,
        "--minutes": options.minutes,
        "steps": str(_schedule(options, recipe)),
        "--batch-size": recipe.batch_size,
        "--seed": options.seed,
        "packing": options.pack,
        "the data": cache.meta["digest"],
    }


def _check_ranks(identity: dict[str, Any], recipe: Recipe, world: World) -> None:
    """Refuse ranks with different options or data, and a batch that cannot be shared out."""
    for name, value in identity.items():
        world.require_same(name, value)
    if recipe.batch_size % world.size:
        raise AgreedError(
            f"--batch-size is {recipe.batch_size}, should be a multiple of the number of ranks, {world.size}"
        )


def _known_run(folder: RunFolder, options: Options, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The run in the output folder that this command continues; None for a new run."""
    if options.resume != "auto":
        return None
    folder.require_same_run(identity)
    return folder.known()


def _objective(options: Options, recipe: Recipe, cache: TokenCache) -> Objective:
    """A new objective on the CPU; the seed decides its weights."""
    torch.manual_seed(options.seed)
    config = electra_config(
        options.config, vocab_size=cache.vocab_size, mask_token_id=cache.special_ids.mask
    )
    return make_objective(options.objective, config, cache.facts, recipe)


def _rows(options: Options, cache: TokenCache, length: int, world: World) -> PackedRows:
    """The training rows of one length; rank 0 plans them and the others read its plan."""
    pack = options.pack and OBJECTIVES[options.objective].packs

    def plan() -> Plan:
        return plan_rows(cache, length, seed=options.seed, pack=pack, folder=options.output / "plans")

    world.on_main(lambda: bool(plan()))
    return PackedRows(cache, world.everywhere(plan))



def _planned(
    options: Options,
    recipe: Recipe,
    make: MakeObjective,
    sources: Mapping[int, RowSource],
    known: dict[str, Any] | None,
    world: World,
    progress: Progress,
) -> Planned:
    """Decide micro-batch, threads and steps: as asked for, as in the run that is continued, or by trials."""
    earlier = known["execution"] if known else {}
    if earlier.get("ranks") != world.size:
        earlier = {}
    micro_batch = options.micro_batch or earlier.get("micro_batch")
    threads = options.threads or earlier.get("threads")
    asked, longest = _schedule(options, recipe), sources[max(sources)]
    if micro_batch is None or threads is None:
        # The ranks try by themselves, so each needs a world of its own.
        alone, execution = World(device=world.device), replace(_execution(options, None), shard=False)
        trial = Trainer(make(), recipe, asked, seed=options.seed, world=alone, execution=execution)
        torch.set_num_threads(threads or 1)
        micro_batch = micro_batch or choose_micro_batch(trial, longest, recipe.batch_size // world.size, world)
        threads = threads or choose_threads(trial, longest, micro_batch, world)
        del trial
    torch.set_num_threads(threads)
    execution = _execution(options, micro_batch)
    progress.log(f"{world.size} ranks, {micro_batch} rows at once on each, {threads} threads")
    if known is not None:
        return Planned(parse_schedule(known["schedule"]), execution, threads)
    if options.minutes is None:
        return Planned(asked, execution, threads)
    seconds = [
        step_seconds(
            Trainer(make(), recipe, asked, seed=options.seed, world=world, execution=execution),
            sources[phase.length],
        )
        for phase in asked.phases
    ]
    schedule = _in_minutes(options.minutes, asked, seconds, recipe.least_steps)
    progress.log(_length_message(options.minutes, schedule, seconds))
    return Planned(schedule, execution, threads)


def _execution(options: Options, micro_batch: int | None) -> Execution:
    return Execution(micro_batch, options.shard, options.checkpoint_layers, options.compile)


def _in_minutes(minutes: float, asked: Schedule, seconds: Sequence[float], least: int) -> Schedule:
    """The phases of ``asked`` with as many steps as fit into ``minutes``, and at least ``least`` in all."""
    shares = [phase.steps / asked.steps for phase in asked.phases]
    steps = steps_of_minutes(minutes, seconds, shares)
    factor = max(1.0, least / sum(steps))
    return Schedule(
        tuple(Phase(phase.length, round(factor * count)) for phase, count in zip(asked.phases, steps))
    )


def _length_message(minutes: float, schedule: Schedule, seconds: Sequence[float]) -> str:
    expected = sum(phase.steps * each for phase, each in zip(schedule.phases, seconds)) / 60
    line = f"{schedule.steps:,} steps, about {expected:.1f} minutes"
    if expected > 1.05 * minutes:
        line += f" instead of {minutes:g}: with fewer steps this configuration shows nothing"
    return line


def _restored(
    options: Options, trainer: Trainer, checkpoints: Checkpoints, known: dict[str, Any] | None, progress: Progress
) -> Position:
    """Load the state to continue from; the position is 0 for a new run."""
    path = None if options.resume in ("auto", "never") else Path(options.resume)
    if path is None and known is None:
        return Position()
    values = checkpoints.restore(trainer.objective, trainer.optimizers, path)
    if values is None:
        return Position()
    position = Position(**values)
    progress.log(f"continuing at step {position.step:,} of {trainer.schedule.steps:,}")
    return position


def _train(
    options: Options,
    trainer: Trainer,
    sources: Mapping[int, RowSource],
    folder: RunFolder,
    checkpoints: Checkpoints,
    measurements: Measurements,
    progress: Progress,
) -> None:
    """Train to the end of the schedule, unless the run that is continued has already reached it."""
    world = trainer.world
    if trainer.position.step >= trainer.schedule.steps:
        progress.log(f"the run in {folder.folder} is finished; --resume never would start it again")
        return
    log = Log(folder.folder, step=trainer.position.step, warn=progress.log) if world.is_main else None
    if log is not None:
        log.start(trainer.position.step, trainer.schedule.steps)
    with progress.bar("pre-training") as bar:
        loop.run(
            trainer,
            [sources[phase.length] for phase in trainer.schedule.phases],
            checkpoints=checkpoints,
            log=log,
            monitor=Monitor(measurements.plateau),
            evaluate=lambda: measurements.evaluate(trainer.objective),
            save_model=lambda step: save_model(trainer, measurements.cache.tokenizer, folder.model, progress.log),
            show=bar.update,
            alarm=progress.log,
            save_minutes=options.save_minutes,
        )
    if log is not None:
        log.end(trainer.position.step)
    progress.log(f"the model is in {folder.model}")
