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
from electra_kernels.training.hardware import device_peak_flops, step_flops
from electra_kernels.training.objectives import Objective
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Phase, Schedule, parse_schedule
from electra_kernels.training.trainer import Execution, Trainer
from electra_kernels.training.world import World

MakeObjective = Callable[[], Objective]


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
    earlier = known["execution"] if known else {}
    if earlier.get("ranks") != world.size:
        earlier = {}
    micro_batch = options.micro_batch or earlier.get("micro_batch")
    threads = options.threads or earlier.get("threads") or _threads_of_user()
    asked, longest = asked_schedule(options, recipe), sources[max(sources)]
    if micro_batch is None or threads is None:
        # The ranks try by themselves, so each needs a world of its own.
        alone, execution = World(device=world.device), replace(_execution(options, None), shard=False)
        trial = Trainer(make(), recipe, asked, seed=options.seed, world=alone, execution=execution)
        torch.set_num_threads(threads or 1)
        micro_batch = micro_batch or choose_micro_batch(
            trial, longest, recipe.batch_size // world.size, world
        )
        threads = threads or choose_threads(trial, longest, micro_batch, world)
        del trial
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
    schedule = _in_minutes(options.minutes, asked, seconds, recipe.least_steps)
    progress.log(_length_message(options.minutes, schedule, seconds))
    return Planned(schedule, execution, threads)


def count_flops(
    make: MakeObjective, trainer: Trainer, sources: Mapping[int, RowSource]
) -> list[float] | None:
    """Floating-point operations of a step of all ranks in each phase; None where the peak of the device is not known.

    They are counted for a few rows by a model that is thrown away, because compiled layers cannot be counted.
    """
    device = trainer.world.device
    if device_peak_flops(device) is None:
        return None
    count = min(trainer.recipe.batch_size, trainer.execution.micro_batch or 1)
    plain = Trainer(make(), trainer.recipe, trainer.schedule, seed=0, world=World(device=device))
    flops = []
    for phase in trainer.schedule.phases:
        rows = sources[phase.length]
        index = torch.arange(count) % len(rows)
        batch = rows.batch(index, index).to(device)
        flops.append(step_flops(partial(plain.step, batch)) * trainer.recipe.batch_size / count)
    return flops


def _threads_of_user() -> int | None:
    """OMP_NUM_THREADS, which torchrun sets for its processes whatever the user wants."""
    number = os.environ.get("OMP_NUM_THREADS", "")
    return int(number) if number.isdecimal() and int(number) > 0 and "RANK" not in os.environ else None


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
