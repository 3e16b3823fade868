"""A pre-training run: text → token cache → rows → training → model → report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from electra_kernels.commands.final_report import describe_run, final_report
from electra_kernels.commands.measurements import Measurements
from electra_kernels.commands.planning import count_flops, plan_run
from electra_kernels.commands.progress import Progress
from electra_kernels.commands.resuming import check_ranks, known_run, restore
from electra_kernels.commands.run_folder import RunFolder
from electra_kernels.commands.run_options import (
    Options,
    check_options,
    identity_of,
    recipe_of,
    row_lengths,
)
from electra_kernels.commands.run_parts import new_objective, packed_rows, token_cache_of
from electra_kernels.data.batch import RowSource
from electra_kernels.data.token_cache import TokenCache
from electra_kernels.errors import AgreedError
from electra_kernels.evaluation.model_card import write_cards
from electra_kernels.evaluation.real_word_errors import error_pairs_or_reason
from electra_kernels.training import loop
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.checkpoints import Checkpoints
from electra_kernels.training.hardware import release_memory
from electra_kernels.training.lock import locked
from electra_kernels.training.log import LOG, Log, read_log
from electra_kernels.training.model_folder import Finish, save_objective
from electra_kernels.training.trainer import Trainer
from electra_kernels.training.world import World, join_world


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
    check_options(options)
    with join_world() as world, _locked(options.output, world):
        folder = RunFolder(options.output)
        world.on_main(folder.check)
        world.require_same("--data", "left out" if options.data is None else "given")
        cache = token_cache_of(options, world, progress)
        recipe = recipe_of(options)
        identity = identity_of(options, recipe, cache)
        check_ranks(options, identity, recipe, world)
        known = world.on_main(lambda: known_run(folder, options, identity))
        sources = {
            length: packed_rows(options, cache, length, world) for length in row_lengths(options, recipe)
        }
        most_pieces = max(rows.plan.most_pieces for rows in sources.values())
        new = partial(new_objective, options, recipe, cache, most_pieces)
        make = partial(world.everywhere, new)
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
        begun_from = restore(options, trainer, checkpoints, known, progress)
        description = describe_run(options, recipe, cache, planned, world)

        def write_run() -> None:
            facts = {"identity": identity, "schedule": str(planned.schedule), "begun_from": begun_from}
            run = {**description, "baselines": measurements.baselines(), **facts}
            folder.write_run(run) if known else folder.begin(run)

        world.on_main(write_run)
        flops = count_flops(make, trainer, sources)
        finish = partial(write_cards, run=description)
        _train(options, trainer, sources, folder, checkpoints, measurements, flops, progress, finish)
        description["run"] |= {"tokens": trainer.position.tokens, "seconds": trainer.position.seconds}
        del trainer
        release_memory()

        def report() -> Path:
            objective, rows = new().to(world.device), sources[length]
            return final_report(
                options, objective, recipe, measurements, error_pairs, description, rows, progress
            )

        # The other ranks wait: torchrun on a machine whose processes have ended gives up its rendezvous after minutes.
        return world.on_main(report)


@contextmanager
def _locked(output: Path, world: World) -> Iterator[None]:
    """Rank 0 holds the lock of the folder for all ranks."""
    with ExitStack() as stack:
        world.everywhere(lambda: stack.enter_context(locked(output)) if world.is_main else None)
        yield


def _train(
    options: Options,
    trainer: Trainer,
    sources: Mapping[int, RowSource],
    folder: RunFolder,
    checkpoints: Checkpoints,
    measurements: Measurements,
    flops: Sequence[float] | None,
    progress: Progress,
    finish: Finish,
) -> None:
    """Train to the end of the schedule, unless the run that is continued has already reached it."""
    world = trainer.world
    if trainer.position.step >= trainer.schedule.steps:
        progress.log(f"the run in {folder.folder} is finished; --resume never would start it again")
        _finish(trainer, measurements.cache, folder, progress, finish)
        return
    monitor = Monitor(measurements.plateau)

    def open_log() -> Log | None:
        if not world.is_main:
            return None
        log = Log(folder.folder, step=trainer.position.step, warn=progress.log)
        for record in read_log(folder.folder / LOG).step_records:
            monitor.check(record)
        log.start(trainer.position.step, trainer.schedule.steps)
        return log

    log = world.everywhere(open_log)
    with progress.bar("pre-training") as bar:
        loop.run(
            trainer,
            [sources[phase.length] for phase in trainer.schedule.phases],
            checkpoints=checkpoints,
            log=log,
            monitor=monitor,
            evaluate=lambda: measurements.evaluate(trainer.objective, world),
            save_model=lambda step: _save_model(trainer, measurements.cache, folder.model, progress, finish),
            show=bar.update,
            warn=progress.log,
            save_minutes=options.save_minutes,
            flops=flops,
        )
    if log is not None:
        log.end(trainer.position.step)
    progress.log(f"the model is in {folder.model}")


def _finish(
    trainer: Trainer, cache: TokenCache, folder: RunFolder, progress: Progress, finish: Finish
) -> None:
    """Write what a finished training lacks if its last process was killed, or its disk was full, at the very end."""
    world, step = trainer.world, trainer.position.step
    if not _save_model(trainer, cache, folder.model, progress, finish):
        raise AgreedError(
            f"the model cannot be written to {folder.model}: make room, then the same command goes on"
        )

    def end_log() -> None:
        if read_log(folder.folder / LOG).end != "finished":
            Log(folder.folder, step=step, warn=progress.log).end(step)

    world.on_main(end_log)


def _save_model(
    trainer: Trainer, cache: TokenCache, target: Path, progress: Progress, finish: Finish
) -> bool:
    """Write the model that users keep: all ranks gather its weights, and rank 0 writes them.

    Returns:
        Whether it is written, on all ranks.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(trainer.objective, options=options)
    objective, step = trainer.objective, trainer.position.step

    def write() -> bool:
        try:
            save_objective(target, objective, cache.tokenizer, trainer.recipe, state, finish=finish)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            progress.log(f"the model of step {step:,} could not be written: {reason}; training goes on")
            return False
        return True

    return trainer.world.on_main(write)
