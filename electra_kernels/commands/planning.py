"""What is decided before the first step: rows at once, threads, and the number of steps."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from electra_kernels.commands.progress import Progress
from electra_kernels.commands.run_options import Options, asked_schedule
from electra_kernels.data.batch import RowSource
from electra_kernels.training.calibration import (
    choose_micro_batch,
    choose_threads,
    step_seconds,
    steps_of_minutes,
)
from electra_kernels.training.hardware import device_name, device_peak_flops, release_memory, step_flops
from electra_kernels.training.objectives import Objective
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Phase, Schedule, parse_schedule
from electra_kernels.training.trainer import Execution, Trainer
from electra_kernels.training.world import World

MakeObjective = Callable[[], Objective]
_DECIDE_MEMORY = ("shard", "checkpoint_layers", "compile", "vocab_parallel")
_COUNTED = 2  # rows; more could need more memory than the training, whose layers may be checkpointed


@dataclass(frozen=True)
class Planned:
    """What is decided before the first step, and kept in run.json for a resumed run."""

    schedule: Schedule
    execution: Execution
    threads: int


def plan_run(
    options: Options,
    recipe: Recipe,
    make: MakeObjective,
    sources: Mapping[int, RowSource],
    known: dict[str, Any] | None,
    world: World,
    progress: Progress,
) -> Planned:
    """Decide micro-batch, threads and steps: as asked for, as in the run that is continued, or by trials."""
    earlier = _same_conditions(known, options, world)
    micro_batch = options.micro_batch or earlier.get("micro_batch")
    threads = options.threads or earlier.get("threads") or _threads_of_user()
    asked, longest = asked_schedule(options, recipe), sources[max(sources)]
    if micro_batch is None or threads is None:
        # The ranks try by themselves, so each needs a world of its own.
        alone = World(device=world.device)
        execution = replace(_execution(options, None), shard=False, vocab_parallel=1)
        trial = Trainer(make(), recipe, asked, seed=options.seed, world=alone, execution=execution)
        torch.set_num_threads(threads or 1)
        micro_batch = micro_batch or choose_micro_batch(
            trial, longest, recipe.batch_size // world.size, world
        )
        threads = threads or choose_threads(trial, longest, micro_batch, world)
        del trial
    release_memory()
    torch.set_num_threads(threads)
    execution = _execution(options, micro_batch)
    progress.log(f"ranks: {world.size}; rows at once on a rank: {micro_batch}; threads of a rank: {threads}")
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
    release_memory()
    schedule = _in_minutes(options.minutes, asked, seconds, recipe.least_steps)
    progress.log(_length_message(options.minutes, schedule, seconds))
    return Planned(schedule, execution, threads)


def count_flops(
    make: MakeObjective, trainer: Trainer, sources: Mapping[int, RowSource]
) -> list[float] | None:
    """Floating-point operations of a step of all ranks in each phase.

    They are counted for a few rows by a model that is thrown away, because compiled layers cannot be counted.

    Returns:
        None where the peak of the device is not known, or its memory does not suffice for the second model.
    """
    if device_peak_flops(trainer.world.device) is None:
        return None
    try:
        return _counted_flops(make(), trainer, sources)
    except torch.OutOfMemoryError:
        return None
    finally:
        release_memory()


def _counted_flops(objective: Objective, trainer: Trainer, sources: Mapping[int, RowSource]) -> list[float]:
    device, flops = trainer.world.device, []
    plain = Trainer(objective, trainer.recipe, trainer.schedule, seed=0, world=World(device=device))
    for phase in trainer.schedule.phases:
        rows = sources[phase.length]
        index = torch.arange(_COUNTED) % len(rows)
        batch = rows.batch(index, index).to(device)
        flops.append(step_flops(partial(plain.step, batch)) * trainer.recipe.batch_size / _COUNTED)
    return flops


def _same_conditions(known: dict[str, Any] | None, options: Options, world: World) -> dict[str, Any]:
    """How the run that is continued was computed last, if that was in the same way on such devices, else nothing."""
    if known is None:
        return {}
    earlier: dict[str, Any] = {"vocab_parallel": 1, **known["execution"]}  # older runs have no such entry
    now = {"ranks": world.size} | {name: getattr(options, name) for name in _DECIDE_MEMORY}
    if any(earlier.get(name) != value for name, value in now.items()):
        return {}
    device = world.on_main(lambda: device_name(world.device))  # ranks of other machines may differ
    return earlier if known["run"]["device"] == device else {}


def _threads_of_user() -> int | None:
    """OMP_NUM_THREADS, which torchrun sets for its processes whatever the user wants."""
    number = os.environ.get("OMP_NUM_THREADS", "")
    return int(number) if number.isdecimal() and int(number) > 0 and "RANK" not in os.environ else None


def _execution(options: Options, micro_batch: int | None) -> Execution:
    return Execution(
        micro_batch, options.shard, options.checkpoint_layers, options.compile, options.vocab_parallel
    )


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
