"""One run of a comparison, in a process of its own: the same start, text and budget as all others, then the probes."""

import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from electra_kernels.models import ElectraConfig, Encoder
from electra_kernels.pretraining.alarms import Watch
from electra_kernels.pretraining.budget import Budget
from electra_kernels.pretraining.objectives import OBJECTIVES, Objective, Proposed, TextFacts
from electra_kernels.pretraining.probing import Task, probe
from electra_kernels.pretraining.recipe import Recipe
from electra_kernels.pretraining.rows import Rows
from electra_kernels.pretraining.run import State, train

CURVE_POINTS = 6
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Run:
    """What a run does not share with the others; ``is_probed`` says whether the tasks are measured at its end.

    The objective `UNTRAINED` is none: the encoder from which all runs of that seed start is probed.
    """

    objective: str
    learning_rate: float
    seed: int
    is_probed: bool

    @property
    def name(self) -> str:
        return f"{self.objective}-{self.learning_rate:g}-{self.seed}"


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        config, text: of the objectives.
        rows: training rows.
        recipe: batch size, warm-up and the like; the learning rate is the run's.
        minutes: length of a run, or None: ``recipe.steps``.
        plateau: nats, the entropy of the word frequencies.
        curve: the task of the learning curve, probed with the encoder frozen.
        choice: the same on other held-out text, by which the learning rate is chosen.
        tasks: probed at the end, the encoder frozen and fine-tuned.
    """

    config: ElectraConfig
    text: TextFacts
    rows: Rows
    recipe: Recipe
    minutes: float | None
    plateau: float
    curve: Task
    choice: Task
    tasks: Sequence[Task]


def carry_out(setting: Setting, run: Run) -> dict[str, Any]:
    """Train and measure; returns what is known of the run, as JSON has it."""
    if run.objective == UNTRAINED:
        encoder = initial_encoder(setting, run.seed)
        return {
            **asdict(run),
            "tokens": 0,
            "curve": [_point(encoder, setting, State(), run.seed)],
            "alarms": [],
            "probes": probes(encoder, setting.tasks, run.seed),
        }
    objective = objective_of(setting, run)
    encoder, watch = objective.encoder, Watch(setting.plateau)
    curve: list[dict[str, float]] = [_point(encoder, setting, State(), run.seed)]
    alarms: list[str] = []
    budget = Budget(setting.recipe.steps, setting.minutes)

    def report(state: State) -> None:
        alarms.extend(map(str, watch.see(state)))
        if state.fraction >= len(curve) / CURVE_POINTS:
            with budget.paused():
                curve.append(_point(encoder, setting, state, run.seed))

    recipe = replace(setting.recipe, learning_rate=run.learning_rate)
    state = train(objective, setting.rows, recipe, budget, seed=run.seed, report=report)
    return {
        **asdict(run),
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "choice": probe(encoder, setting.choice, frozen=True, seed=run.seed),
        "curve": curve,
        "alarms": alarms,
        "probes": probes(encoder, setting.tasks, run.seed) if run.is_probed else None,
    }


def objective_of(setting: Setting, run: Run) -> Objective:
    """The objective of a run; its encoder starts from weights that the seed alone decides."""
    initial = initial_encoder(setting, run.seed).state_dict()
    kind, recipe = OBJECTIVES[run.objective], setting.recipe
    if issubclass(kind, Proposed):
        objective: Objective = kind(
            setting.config,
            setting.text,
            head_start=recipe.head_start,
            head_start_replacements=recipe.head_start_replacements,
        )
    else:
        objective = kind(setting.config, setting.text)
    objective.encoder.load_state_dict(initial)
    return objective


def initial_encoder(setting: Setting, seed: int) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(setting.config.discriminator)


def probes(encoder: Encoder, tasks: Sequence[Task], seed: int) -> dict[str, dict[str, float]]:
    """Task → "frozen" and "fine_tuned" → figure."""
    ways = {"frozen": True, "fine_tuned": False}
    return {
        task.name: {name: probe(encoder, task, frozen=frozen, seed=seed) for name, frozen in ways.items()}
        for task in tasks
    }


def _point(encoder: Encoder, setting: Setting, state: State, seed: int) -> dict[str, float]:
    figure = probe(encoder, setting.curve, frozen=True, seed=seed)
    return {"step": state.step, "tokens": state.tokens, "seconds": state.seconds, "figure": figure}


def carry_out_all(path: Path, runs: Sequence[Run], processes: int) -> Iterator[dict[str, Any]]:
    """Results in the order in which the runs end.

    Each process has one thread: two runs side by side on two cores are faster than one after the other on both.

    Args:
        path: of the pickled `Setting`.
        runs: which.
        processes: how many at once.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(path,)) as pool:
        waiting = [pool.submit(_carry_out, run) for run in runs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            for future in waiting:
                future.cancel()


_setting: Setting | None = None


def _begin(path: Path) -> None:
    global _setting
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _setting = pickle.loads(path.read_bytes())


def _end_with_parent() -> None:
    """A comparison that is killed takes its runs with it, however it was killed."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _carry_out(run: Run) -> dict[str, Any]:
    assert _setting is not None
    return carry_out(_setting, run)
