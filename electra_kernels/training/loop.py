"""One training from its position to its end: train, log, evaluate, save; interrupted at any step."""

import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from electra_kernels.data.batch import RowSource
from electra_kernels.errors import AgreedError
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.checkpoints import Checkpoints
from electra_kernels.training.hardware import mfu
from electra_kernels.training.log import Log, StepRecord
from electra_kernels.training.stop import stop_requests
from electra_kernels.training.trainer import Trainer

EVALUATIONS = 12  # over the whole training

# (record of the last steps, figures of the last evaluation)
Show = Callable[[StepRecord, Mapping[str, float]], None]


def run(
    trainer: Trainer,
    sources: Sequence[RowSource],
    *,
    checkpoints: Checkpoints,
    log: Log | None,
    monitor: Monitor,
    evaluate: Callable[[], Mapping[str, float]],
    save_model: Callable[[int], bool],
    show: Show,
    warn: Callable[[str], None],
    save_minutes: float,
    flops: Sequence[float] | None = None,
) -> None:
    """Train to the end of the schedule. All ranks call this together.

    Args:
        trainer: at the position where the training begins or continues.
        sources: rows of each phase.
        checkpoints: gets the state every ``save_minutes``, at the end, and when a signal stops the training.
        log: of rank 0; None on the others.
        monitor: gives alarms.
        evaluate: figures on held-out text; called on all ranks, `EVALUATIONS` times.
        save_model: saves the model that users keep, after each evaluation; called on all ranks with the step, and
            returns on all of them whether it is written.
        show: shows the progress; called on rank 0.
        warn: prints an alarm; called on rank 0.
        save_minutes: time between checkpoints.
        flops: floating-point operations of a step of each phase on all ranks, if the share of the peak is to be logged.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM arrived at a rank; the state and the model of that step are saved.
        UserError: the model of the last step cannot be written.
    """
    world, figures, has_model = trainer.world, {}, True
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)  # the trials before took all that there is
    evaluated, saved = trainer.position.step, time.monotonic()
    with stop_requests(world) as stop:
        try:
            for record in trainer.train(sources, stop):
                checkpoints.poll()
                record = replace(record, metrics={**record.metrics, **_load(record, trainer, flops)})
                is_last = record.step == record.steps
                if _is_due(evaluated, record) or is_last:
                    figures, evaluated = dict(evaluate()), record.step
                    has_model = save_model(record.step)
                    if log is not None:
                        log.evaluation(record.step, record.seconds, figures)
                if log is not None:
                    log.step(record)
                    for alarm in monitor.check(record):
                        log.alarm(alarm.step, alarm.message)
                        warn(str(alarm))
                    show(record, figures)
                is_late = time.monotonic() - saved >= 60 * save_minutes
                if world.largest(is_late) or is_last or stop.agreed:
                    saved = time.monotonic()
                    checkpoints.save(trainer)
        finally:  # the thread that writes would outlive an error, and the lock of the folder
            is_whole = checkpoints.finish()
        if stop():  # a signal during the last evaluation counts too
            if evaluated != trainer.position.step:
                save_model(trainer.position.step)
            if log is not None:
                log.end(trainer.position.step, signal.Signals(stop.agreed).name)
            world.gather(None)  # When one process has ended, torchrun stops those that still write.
            step = f"step {trainer.position.step:,} of {trainer.schedule.steps:,}"
            raise stop.error(
                f"{step} is saved; the same command continues there"
                if is_whole
                else f"{step} could not be saved"
            )
        if not has_model:
            raise AgreedError(
                "the training is finished, but not its model: make room, then the same command goes on"
            )


def _is_due(evaluated: int, record: StepRecord) -> bool:
    """Whether a share of the training has passed since the evaluation at step ``evaluated``."""
    return (
        record.step * EVALUATIONS // record.steps > evaluated * EVALUATIONS // record.steps or evaluated == 0
    )


def _load(record: StepRecord, trainer: Trainer, flops: Sequence[float] | None) -> dict[str, float]:
    """Peak memory of this rank in bytes, and the share of the peak of arithmetic if it is known."""
    world = trainer.world
    if world.device.type == "cuda":
        load = {"memory": float(torch.cuda.max_memory_allocated(world.device))}
    else:
        load = {"memory": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    if flops is None:
        return load
    used = flops[trainer.schedule.phase_of(record.step)]
    share = mfu(used, record.metrics["steps_per_second"], world.size)
    return load if share is None else load | {"mfu": share}
