"""The training loop: one for every objective."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from electra_kernels.data.rows import Rows, batches
from electra_kernels.files import stop_signals_deferred
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training.objectives import Objective, take
from electra_kernels.training.optimizers import make_optimizers, scale_learning_rate
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Budget, learning_rate_scale

LOG_EVERY = 10  # steps; reading a metric waits for the device


@dataclass
class State:
    """Where a run stands, as the callbacks see it.

    ``metrics`` are means over the steps since the last report.
    """

    step: int = 0
    fraction: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    learning_rate: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """One objective with its optimisers, advanced step by step.

    SIGINT and SIGTERM wait for the end of a step: Python's handlers raise at any line, and an exception that passes
    through torch's C++ in the middle of one may abort the process.

    Args:
        objective: the model and its loss, on the device of the run.
        recipe: learning rate, warm-up, weight decay, clipping.
    """

    def __init__(self, objective: Objective, recipe: Recipe) -> None:
        self.objective, self.recipe = objective, recipe
        self.device = next(objective.parameters()).device
        self.bfloat16 = has_native_bfloat16(self.device)
        # It is here that torch imports its compiler, in which an exception of a signal handler aborts the process.
        with stop_signals_deferred():
            self.optimizers = make_optimizers(objective, recipe)

    @stop_signals_deferred()
    def step(self, batch: object, fraction: float) -> tuple[float, dict[str, Tensor]]:
        """One update; returns AdamW's learning rate, and the batch's metrics and gradient norm (unclipped)."""
        scale = learning_rate_scale(fraction, self.recipe.warmup)
        for optimizer in self.optimizers:
            scale_learning_rate(optimizer, scale)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            loss, metrics = self.objective(batch, fraction)
        loss.backward()
        parameters = list(self.objective.parameters())
        norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip, norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return scale * self.recipe.learning_rate, {**metrics, "gradient_norm": norm}


def train(
    objective: Objective,
    rows: Rows,
    recipe: Recipe,
    budget: Budget,
    *,
    seed: int,
    report: Callable[[State], None],
) -> State:
    """Train until the budget is spent; ``report`` is called every few steps and after the last one.

    ``report`` may evaluate the objective as long as it leaves torch's global generator alone (see
    `evaluation.isolated`), from which the training draws.
    """
    torch.manual_seed(seed + 1)  # the initial weights have been drawn from ``seed``
    trainer = Trainer(objective, recipe)
    objective.train()
    state, sums = State(), _Means()
    for index in _until_spent(batches(rows, recipe.batch_size, seed), budget, state):
        batch = objective.batch(take(rows, index, trainer.device))
        # The middle of the step: a first one at a learning rate of 0 would be lost.
        state.learning_rate, metrics = trainer.step(batch, budget.fraction(state.step + 0.5))
        sums.add(metrics)
        state.step += 1
        state.tokens += int(rows.attention_mask[index].sum())
        state.fraction, state.seconds = budget.fraction(state.step), budget.seconds()
        if state.step % LOG_EVERY == 0 or state.fraction >= 1.0:
            state.metrics = sums.take()
            report(state)
    return state


def _until_spent(indices: Iterator[Tensor], budget: Budget, state: State) -> Iterator[Tensor]:
    while state.fraction < 1.0:
        yield next(indices)


class _Means:
    """Means of the metrics since they were last taken; kept on the device until then."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        means = {name: float(torch.stack(values).float().mean()) for name, values in self.values.items()}
        self.values = {}
        return means
