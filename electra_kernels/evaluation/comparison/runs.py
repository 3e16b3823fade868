"""One run of a comparison: train from the common start, measure a learning curve, probe the encoder."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_model

from electra_kernels.evaluation.comparison.setting import (
    UNTRAINED,
    Run,
    Setting,
    TrainingSetting,
    initial_encoder,
    objective_of,
    recipe_of,
)
from electra_kernels.evaluation.probing import probe
from electra_kernels.models import Encoder
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.checkpoint import save_weights
from electra_kernels.training.objectives import Objective
from electra_kernels.training.schedule import Budget
from electra_kernels.training.trainer import State, train

CURVE_POINTS = 6
Curve = list[dict[str, float]]


def train_run(setting: Setting, run: Run, folder: Path) -> dict[str, Any]:
    """Train, and save the encoder in the folder; returns the record of the run, ready for JSON."""
    encoder, record = _trained(setting, run)
    save_weights(encoder, weights_path(folder, run))
    return asdict(run) | record


def probe_run(setting: Setting, run: Run, folder: Path) -> dict[str, Any]:
    """Probe the encoder that `train_run` has saved: "probes" maps task → "frozen" and "fine_tuned" → figure."""
    encoder, modes = Encoder(setting.config.discriminator), {"frozen": True, "fine_tuned": False}
    load_model(encoder, str(weights_path(folder, run)))
    probes = {
        task.name: {
            mode: probe(encoder, task, frozen=frozen, seed=run.seed) for mode, frozen in modes.items()
        }
        for task in setting.tasks
    }
    return asdict(run) | {"probes": probes}


def weights_path(folder: Path, run: Run) -> Path:
    return folder / f"{run.name}.safetensors"


def train_with_curve(
    objective: Objective,
    setting: TrainingSetting,
    run: Run,
    budget: Budget,
    *,
    measure: Callable[[], dict[str, float]],
    is_due: Callable[[State, Curve], bool],
    report: Callable[[State, Curve], None],
) -> tuple[State, Curve]:
    """Train an objective, and measure it before the first step and whenever a point of the curve is due.

    Args:
        objective: from `objective_of`, on the device of the run.
        setting: rows and recipe.
        run: learning rate and seed.
        budget: length of the run.
        measure: the figures of a point; it leaves torch's global generator as it was.
        is_due: whether the next point is due, given the state and the points so far.
        report: called every few steps, after the measurement.

    Returns:
        The final state, and the points: "step", "tokens", "seconds" and the figures.
    """
    curve = [_point(State(), measure())]

    def report_and_measure(state: State) -> None:
        if is_due(state, curve):
            curve.append(_point(state, measure()))
        report(state, curve)

    recipe = recipe_of(setting, run)
    state = train(objective, setting.rows, recipe, budget, seed=run.seed, report=report_and_measure)
    return state, curve


def evenly_spaced(points: int) -> Callable[[State, Curve], bool]:
    """Due at the start and at equal shares of the run after it, the last of them at its end."""
    return lambda state, curve: state.fraction >= len(curve) / points


def _point(state: State, figures: dict[str, float]) -> dict[str, float]:
    return {"step": state.step, "tokens": state.tokens, "seconds": state.seconds, **figures}


def _trained(setting: Setting, run: Run) -> tuple[Encoder, dict[str, Any]]:
    if run.objective == UNTRAINED:
        encoder = initial_encoder(setting, run.seed)
        figure = probe(encoder, setting.curve, frozen=True, seed=run.seed)
        return encoder, {"tokens": 0, "curve": [_point(State(), {"figure": figure})], "alarms": []}
    objective = objective_of(setting, run)
    encoder, monitor = objective.encoder, Monitor(setting.plateau)
    alarms: list[str] = []
    budget = Budget(setting.recipe.steps, setting.minutes)

    def measure() -> dict[str, float]:
        with budget.paused():
            return {"figure": probe(encoder, setting.curve, frozen=True, seed=run.seed)}

    state, curve = train_with_curve(
        objective,
        setting,
        run,
        budget,
        measure=measure,
        is_due=evenly_spaced(CURVE_POINTS),
        report=lambda state, curve: alarms.extend(map(str, monitor.check(state))),
    )
    return encoder, {
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "choice": probe(encoder, setting.choice, frozen=True, seed=run.seed),
        "curve": curve,
        "alarms": alarms,
    }
