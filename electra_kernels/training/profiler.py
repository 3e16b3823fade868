"""Profiler of a training step: hooks on a copy of the model split the step of the trainer into phases."""

import copy
import statistics
import time
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from electra_kernels.data.batch import RowSource
from electra_kernels.models import Electra
from electra_kernels.training.hardware import forked_random_state
from electra_kernels.training.objectives import Objective
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import WHOLE, Execution, Trainer
from electra_kernels.training.world import World

PHASES = ("data", "generator", "head and sampling", "discriminator", "optimiser")
SECONDS = 20  # no further step begins after that
_DATA, _GENERATOR, _HEAD, _DISCRIMINATOR, _OPTIMIZER = PHASES
_WARM_UP = 2  # steps


def profile_step(
    objective: Objective,
    rows: RowSource,
    recipe: Recipe,
    *,
    repeats: int,
    seed: int,
    execution: Execution = WHOLE,
) -> dict[str, float]:
    """Median seconds of each of `PHASES` in a step at the end of the training; ``objective`` is left as it is.

    "generator" and "discriminator" are encoder and transform, forward and backward. "head and sampling" is the rest
    of forward and backward: masking, replacement, both heads with their losses, sampling. "optimiser" includes
    zeroing the gradients, their norm and clipping.

    Args:
        objective: trains an `Electra` with a model as generator.
        rows: the training rows.
        recipe: batch size and optimizers.
        repeats: number of measured steps; fewer where they take more than `SECONDS`.
        seed: decides the order of the rows.
        execution: how the step is computed.

    Raises:
        ValueError: the objective has no model as generator.
    """
    objective = copy.deepcopy(objective)
    world = World(device=next(objective.parameters()).device)
    trainer = Trainer(
        objective, recipe, one_phase(rows.length, 1), seed=seed, world=world, execution=execution
    )
    trainer.position.step = 1  # the end of the training, after the head start
    timer = PhaseTimer(world.device)
    timer.watch_step(objective)
    steps: list[dict[str, float]] = []
    end = time.perf_counter() + SECONDS
    with forked_random_state(), closing(trainer.loader(rows)) as loader:
        while len(steps) < _WARM_UP + repeats and (len(steps) <= _WARM_UP or time.perf_counter() <= end):
            timer.start(_DATA)
            batch = next(loader)
            timer.switch_to(_OPTIMIZER)  # a step begins with zero_grad
            trainer.step(batch)
            steps.append(timer.stop())
    return {phase: statistics.median(step[phase] for step in steps[_WARM_UP:]) for phase in PHASES}


class PhaseTimer:
    """A stopwatch that is always in one phase of a step; it waits for the device where the phase changes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start(_DATA)

    def start(self, phase: str) -> None:
        """Begin a step in ``phase``."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.phase, self.since = phase, self._now()

    def switch_to(self, phase: str) -> None:
        """Charge the time since the last switch to the phase that ends here."""
        now = self._now()
        self.seconds[self.phase] += now - self.since
        self.phase, self.since = phase, now

    def stop(self) -> dict[str, float]:
        """The seconds of each phase; their sum is the time since `start`."""
        self.switch_to(self.phase)
        return self.seconds

    def watch_step(self, objective: Objective) -> None:
        """Switch phases during the forward and backward passes of ``objective``, by hooks that change no number.

        Raises:
            ValueError: the objective has no model as generator.
        """
        model = objective.model
        if not isinstance(model, Electra) or model.generator is None:
            raise ValueError(f"objective {objective.name} has no generator, should train an Electra with one")
        generator, discriminator = model.generator, model.discriminator
        self._watch(objective, _HEAD)
        make_batch = objective.batch

        def timed_batch(*arguments: Any) -> Any:
            """Masking and the draws of a fixed generator."""
            self.switch_to(_HEAD)
            batch = make_batch(*arguments)
            self.switch_to(_OPTIMIZER)
            return batch

        objective.batch = timed_batch  # type: ignore[assignment, method-assign]
        self._watch(generator, _GENERATOR)
        self._watch(generator.transform, _GENERATOR)
        self._watch(discriminator.encoder, _DISCRIMINATOR)
        self._watch(discriminator.transform, _DISCRIMINATOR)
        if generator.encoder is not discriminator.encoder:
            self._watch(generator.encoder, _GENERATOR)
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        register_multi_grad_hook(trained, lambda gradients: self.switch_to(_OPTIMIZER))

    def _watch(self, module: nn.Module, phase: str) -> None:
        def enter(module: nn.Module, arguments: Any) -> None:
            # An encoder that both models share belongs to the generator while the generator runs.
            if self.phase != _GENERATOR:
                self.switch_to(phase)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(self._leave)

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """Return to "head and sampling"; the backward pass comes back to this phase at the output's gradient."""
        phase = self.phase
        for part in output if isinstance(output, tuple) else (output,):
            if isinstance(part, Tensor) and part.requires_grad:
                part.register_hook(lambda gradient: self.switch_to(phase))
        self.switch_to(_HEAD)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
