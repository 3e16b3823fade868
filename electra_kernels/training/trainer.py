"""The training loop, the same for every objective."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from electra_kernels.data.rows import Rows, batches
from electra_kernels.files import stop_signals_deferred
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training.objectives import Objective, token_batch
from electra_kernels.training.optimizers import make_optimizers, scale_learning_rate
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Budget, learning_rate_scale

LOG_EVERY = 10  # steps; reading a metric waits for the device


@dataclass
class State:
    """How far a training has come, for its callbacks.

    Attributes:
        step: finished steps.
        fraction: finished share of the training, in [0, 1].
        seconds: since the training began.
        tokens: seen so far, without padding.
        learning_rate: AdamW's, of the last step.
        metrics: means over the steps since the last report.
    """

    step: int = 0
    fraction: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    learning_rate: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """One objective with its optimizers, trained step by step.

    SIGINT and SIGTERM wait for the end of a step: Python's handlers raise at any line, and an exception that passes
    through torch's C++ in the middle of a step may abort the process.

    Args:
        objective: the model and its loss, on the device of the training.
        recipe: learning rate, warm-up, weight decay, clipping.
    """

    def __init__(self, objective: Objective, recipe: Recipe) -> None:
        self.objective, self.recipe = objective, recipe
        self.device = next(objective.parameters()).device
        self.bfloat16 = has_native_bfloat16(self.device)
        # Here torch imports its compiler. An exception of a signal handler in that import aborts the process.
        with stop_signals_deferred():
            self.optimizers = make_optimizers(objective, recipe)

    @stop_signals_deferred()
    def step(self, batch: object, fraction: float) -> tuple[float, dict[str, Tensor]]:
        """Train on one batch; ``fraction`` in [0, 1] is the finished share of the training.

        Returns AdamW's learning rate, and the metrics of the batch with ``gradient_norm`` (before clipping).
        """
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
    """Train until the budget is spent; returns the final state.

    ``report`` is called every `LOG_EVERY` steps and after the last step. It may evaluate the objective if it leaves
    torch's global generator alone, from which the training draws (see `evaluation.held_out.isolated`).
    """
    torch.manual_seed(seed + 1)  # ``seed`` itself has drawn the initial weights
    trainer = Trainer(objective, recipe)
    objective.train()
    state, means = State(), _Means()
    for index in _until_spent(batches(rows, recipe.batch_size, seed), state):
        batch = objective.batch(token_batch(rows, index, trainer.device))
        # The fraction at the middle of the step: at its start, the first step would have a learning rate of 0.
        state.learning_rate, metrics = trainer.step(batch, budget.fraction(state.step + 0.5))
        means.add(metrics)
        state.step += 1
        state.tokens += int(rows.attention_mask[index].sum())
        state.fraction, state.seconds = budget.fraction(state.step), budget.seconds()
        if state.step % LOG_EVERY == 0 or state.fraction >= 1.0:
            state.metrics = means.pop()
            report(state)
    return state


def _until_spent(indices: Iterator[Tensor], state: State) -> Iterator[Tensor]:
    while state.fraction < 1.0:
        yield next(indices)


class _Means:
    """Means of the metrics since the last `pop`; the values stay on the device until then."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def pop(self) -> dict[str, float]:
        means = {name: float(torch.stack(values).float().mean()) for name, values in self.values.items()}
        self.values = {}
        return means
