"""One run of a comparison: train from the common start, measure a learning curve, probe the encoder."""

import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model

from electra_kernels.evaluation.comparison.setting import (
    UNTRAINED,
    Run,
    Setting,
    TrainingSetting,
    initial_encoder,
    objective_of,
    recipe_of,
    steps_of,
)
from electra_kernels.evaluation.comparison.unfinished import Curve, Unfinished
from electra_kernels.evaluation.held_out import evaluate_objective
from electra_kernels.evaluation.probing import probe
from electra_kernels.models import Encoder
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.calibration import step_seconds, steps_of_minutes
from electra_kernels.training.log import LOG, Log, StepRecord, read_log
from electra_kernels.training.model_folder import save_weights
from electra_kernels.training.objectives import Objective
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Position, Trainer
from electra_kernels.training.world import World

CURVE_POINTS = 6


def train_run(setting: Setting, run: Run, folder: Path) -> dict[str, Any]:
    """Train, and save the encoder in the folder; returns the record of the run, ready for JSON.

    The folder keeps checkpoints of the run until it is finished. A run that was stopped continues from them. The log
    of the run, also for TensorBoard, is in the folder NAME.log.
    """
    unfinished = Unfinished(folder / f"{run.name}.unfinished")
    encoder, record = _trained(setting, run, unfinished, folder / f"{run.name}.log")
    save_weights(encoder, weights_path(folder, run))
    unfinished.remove()
    return asdict(run) | record


def choice_run(setting: Setting, run: Run, folder: Path) -> dict[str, Any]:
    """The figure by which the rate of a saved encoder is chosen: "choice", the mean over the frozen tasks for it."""
    encoder = _saved(setting, run, folder)
    figures = [probe(encoder, task, frozen=True, seed=run.seed) for task in setting.choice]
    return asdict(run) | {"choice": statistics.fmean(figures)}


def probe_run(setting: Setting, run: Run, folder: Path) -> dict[str, Any]:
    """Probe the encoder that `train_run` has saved: "probes" maps task → "frozen" and "fine_tuned" → figure."""
    encoder, modes = _saved(setting, run, folder), {"frozen": True, "fine_tuned": False}
    probes = {
        task.name: {
            mode: probe(encoder, task, frozen=frozen, seed=run.seed) for mode, frozen in modes.items()
        }
        for task in setting.tasks
    }
    return asdict(run) | {"probes": probes}


def _saved(setting: Setting, run: Run, folder: Path) -> Encoder:
    encoder = Encoder(setting.config.discriminator)
    load_model(encoder, str(weights_path(folder, run)))
    return encoder


def weights_path(folder: Path, run: Run) -> Path:
    return folder / f"{run.name}.safetensors"


def train_with_curve(
    objective: Objective,
    setting: TrainingSetting,
    run: Run,
    steps: int,
    *,
    measure: Callable[[], dict[str, float]],
    is_due: Callable[[StepRecord, Curve], bool],
    report: Callable[[StepRecord, Curve], None],
    unfinished: Unfinished | None = None,
) -> tuple[Position, Curve]:
    """Train an objective, and measure it before the first step and whenever a point of the curve is due.

    Args:
        objective: from `objective_of`, on the device of the run.
        setting: rows and recipe.
        run: learning rate and seed.
        steps: length of the run.
        measure: the figures of a point.
        is_due: whether the next point is due, given the record of the last steps and the points so far.
        report: called every few steps, after the measurement.
        unfinished: the state of an earlier start of this run, and the place for that of this one; None: nothing is
            kept.

    Returns:
        The final position, and the points: "step", "tokens", "seconds" and the figures.
    """
    trainer = _trainer(objective, setting, run, steps)
    curve = [] if unfinished is None else unfinished.restore(trainer)
    if not curve:
        curve.append(_point(trainer.position, measure()))
    for record in trainer.train([setting.rows]):
        if is_due(record, curve):
            curve.append(_point(record, measure()))
        report(record, curve)
        if unfinished is not None:
            unfinished.save_if_due(trainer, curve)
    return trainer.position, curve


def steps_in(minutes: float, setting: TrainingSetting, run: Run, device: torch.device) -> int:
    """The steps that a run makes in ``minutes`` on this machine, measured with a model that is thrown away."""
    objective = objective_of(setting, run).to(device)
    seconds = step_seconds(_trainer(objective, setting, run, setting.recipe.steps), setting.rows)
    return steps_of_minutes(minutes, [seconds], [1.0])[0]


def _trainer(objective: Objective, setting: TrainingSetting, run: Run, steps: int) -> Trainer:
    world = World(device=next(objective.parameters()).device)
    schedule = one_phase(setting.rows.length, steps)
    return Trainer(objective, recipe_of(setting, run), schedule, seed=run.seed, world=world)


def evenly_spaced(points: int) -> Callable[[StepRecord, Curve], bool]:
    """Due at the start and at equal shares of the run after it, the last of them at its end."""
    return lambda record, curve: record.fraction >= len(curve) / points


def _point(position: Position | StepRecord, figures: dict[str, float]) -> dict[str, float]:
    return {"step": position.step, "tokens": position.tokens, "seconds": position.seconds, **figures}


class _Follower:
    """Writes the log of a run and collects its alarms."""

    def __init__(self, folder: Path, plateau: float) -> None:
        self.folder, self.monitor = folder, Monitor(plateau)
        self.log: Log | None = None
        self.alarms: list[str] = []

    def __call__(self, record: StepRecord, curve: Curve) -> None:
        if self.log is None:
            # A run that continues from a checkpoint makes the steps after it again, and their records.
            self.folder.mkdir(exist_ok=True)
            self.log = Log(self.folder, step=record.step - 1, warn=warnings.warn)
            for earlier in read_log(self.folder / LOG).step_records:
                self.alarms += map(str, self.monitor.check(earlier))
        self.log.step(record)
        for alarm in self.monitor.check(record):
            self.log.alarm(alarm.step, alarm.message)
            self.alarms.append(str(alarm))


def _trained(setting: Setting, run: Run, unfinished: Unfinished, log: Path) -> tuple[Encoder, dict[str, Any]]:
    if run.objective == UNTRAINED:
        encoder = initial_encoder(setting, run.seed)
        figure = probe(encoder, setting.curve, frozen=True, seed=run.seed)
        return encoder, {"tokens": 0, "curve": [_point(Position(), {"figure": figure})], "alarms": []}
    objective = objective_of(setting, run)
    encoder, follower = objective.encoder, _Follower(log, setting.plateau)
    steps = steps_of(setting, run.budget)
    if setting.minutes is not None:
        steps = steps_in(setting.minutes, setting, run, torch.device("cpu"))
    position, curve = train_with_curve(
        objective,
        setting,
        run,
        steps,
        measure=lambda: {"figure": probe(encoder, setting.curve, frozen=True, seed=run.seed)},
        is_due=evenly_spaced(CURVE_POINTS),
        report=follower,
        # A length in minutes is measured again by every start, so it cannot be continued.
        unfinished=unfinished if setting.minutes is None else None,
    )
    return encoder, {
        "steps": position.step,
        "tokens": position.tokens,
        "seconds": position.seconds,
        "held_out": evaluate_objective(objective, setting.held_out),
        "curve": curve,
        "alarms": follower.alarms,
    }
