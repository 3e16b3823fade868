"""One run of a comparison, in a process of its own: the same start, text and budget as all others, then the probes."""

import os
import pickle
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from safetensors.torch import load_model

from electra_kernels.data.rows import Rows
from electra_kernels.evaluation.probing import Task, probe
from electra_kernels.models import ElectraConfig, Encoder
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.checkpoint import save_weights
from electra_kernels.training.objectives import OBJECTIVES, GeneratorObjective, Objective, TextFacts
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Budget
from electra_kernels.training.trainer import State, train

CURVE_POINTS = 6
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Run:
    """What a run does not share with the others.

    The objective `UNTRAINED` is none: its encoder is the one from which all runs of that seed start.
    """

    objective: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.objective}-{self.learning_rate:g}-{self.seed}"


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        config, text: of the objectives.
        rows: training rows.
        recipe: batch size, warm-up and the like; the learning rate is the run's, as `recipe_of` says.
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


# (setting, run, folder of the encoders) → what is known of the run, as JSON has it.
Work = Callable[[Setting, Run, Path], dict[str, Any]]


def carry_out(setting: Setting, run: Run, folder: Path) -> dict[str, Any]:
    """Train, and keep the encoder in the folder; returns what is known of the run, as JSON has it."""
    encoder, result = _trained(setting, run)
    save_weights(encoder, weights(folder, run))
    return asdict(run) | result


def measure(setting: Setting, run: Run, folder: Path) -> dict[str, Any]:
    """Probe the encoder that `carry_out` has kept: "probes" is task → "frozen" and "fine_tuned" → figure."""
    encoder, ways = Encoder(setting.config.discriminator), {"frozen": True, "fine_tuned": False}
    load_model(encoder, str(weights(folder, run)))
    probes = {
        task.name: {name: probe(encoder, task, frozen=frozen, seed=run.seed) for name, frozen in ways.items()}
        for task in setting.tasks
    }
    return asdict(run) | {"probes": probes}


def weights(folder: Path, run: Run) -> Path:
    return folder / f"{run.name}.safetensors"


def _trained(setting: Setting, run: Run) -> tuple[Encoder, dict[str, Any]]:
    if run.objective == UNTRAINED:
        encoder = initial_encoder(setting, run.seed)
        return encoder, {"tokens": 0, "curve": [_point(encoder, setting, State(), run.seed)], "alarms": []}
    objective = objective_of(setting, run)
    encoder, monitor = objective.encoder, Monitor(setting.plateau)
    curve: list[dict[str, float]] = [_point(encoder, setting, State(), run.seed)]
    alarms: list[str] = []
    budget = Budget(setting.recipe.steps, setting.minutes)

    def report(state: State) -> None:
        alarms.extend(map(str, monitor.check(state)))
        if state.fraction >= len(curve) / CURVE_POINTS:
            with budget.paused():
                curve.append(_point(encoder, setting, state, run.seed))

    state = train(objective, setting.rows, recipe_of(setting, run), budget, seed=run.seed, report=report)
    return encoder, {
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds,
        "choice": probe(encoder, setting.choice, frozen=True, seed=run.seed),
        "curve": curve,
        "alarms": alarms,
    }


def recipe_of(setting: Setting, run: Run) -> Recipe:
    """The shared recipe at the learning rate of the run; the rate of Muon keeps its ratio to AdamW's."""
    recipe, muon = setting.recipe, setting.recipe.muon_learning_rate
    if muon is not None:
        muon *= run.learning_rate / recipe.learning_rate
    return replace(recipe, learning_rate=run.learning_rate, muon_learning_rate=muon)


def objective_of(setting: Setting, run: Run) -> Objective:
    """The objective of a run; its encoder starts from weights that the seed alone decides."""
    initial = initial_encoder(setting, run.seed).state_dict()
    kind, recipe = OBJECTIVES[run.objective], setting.recipe
    if issubclass(kind, GeneratorObjective):
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


def _point(encoder: Encoder, setting: Setting, state: State, seed: int) -> dict[str, float]:
    figure = probe(encoder, setting.curve, frozen=True, seed=seed)
    return {"step": state.step, "tokens": state.tokens, "seconds": state.seconds, "figure": figure}


def in_processes(
    work: Work, path: Path, runs: Sequence[Run], processes: int
) -> Generator[dict[str, Any], None, None]:
    """Results of `carry_out` or `measure` in the order in which they end.

    Each process has one thread: two runs side by side on two cores are faster than one after the other on both.

    Args:
        work: what to do with each run.
        path: of the pickled `Setting`; the encoders are kept beside it.
        runs: which.
        processes: how many at once.
    """
    context = get_context("spawn")
    processes, others = min(processes, max(1, len(runs))), active_children()
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(path,)) as pool:
        waiting = [pool.submit(_do, work, run) for run in runs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BaseException:
            # Leaving the pool waits for its processes, which would finish their runs.
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise
        finally:
            for future in waiting:
                future.cancel()


_here: tuple[Setting, Path] | None = None


def _begin(path: Path) -> None:
    global _here
    Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of the terminal; the parent answers it, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _here = pickle.loads(path.read_bytes()), path.parent


def _end_with_parent() -> None:
    """A comparison that is killed takes its runs with it, however it was killed."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _do(work: Work, run: Run) -> dict[str, Any]:
    assert _here is not None
    setting, folder = _here
    return work(setting, run, folder)
