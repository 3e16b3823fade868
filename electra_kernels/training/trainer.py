"""The training loop, the same for every objective, on one process or many."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from electra_kernels.data.batch import RowSource, TokenBatch
from electra_kernels.data.loader import Loader
from electra_kernels.files import stop_signals_deferred
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.nn import GeneratorHead
from electra_kernels.training.log import StepRecord
from electra_kernels.training.objectives import Objective
from electra_kernels.training.objectives.base import means, ratio
from electra_kernels.training.optimizers import make_optimizers, scale_learning_rate
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Schedule, learning_rate_scale
from electra_kernels.training.world import World

LOG_EVERY = 10  # steps; reading a metric waits for the device
_MIXED = 0x9E3779B97F4A7C15  # odd, so that multiplying by it loses no bits


@dataclass(frozen=True)
class Execution:
    """How a step is computed. No choice changes its result beyond rounding.

    Attributes:
        micro_batch: rows of one forward and backward pass on one rank; None: all rows of the rank.
        shard: spread weights, gradients and optimizer states over the ranks (FSDP2); otherwise every rank has them
            whole (DDP).
        checkpoint_layers: keep only the inputs of the layers, and compute the layers again in the backward pass.
        compile: compile each layer with ``torch.compile``.
        vocab_parallel: neighbouring ranks that share the generator's output layer: each computes a slice of the
            vocabulary for the rows of all of them. It divides the number of ranks.
    """

    micro_batch: int | None = None
    shard: bool = False
    checkpoint_layers: bool = False
    compile: bool = False
    vocab_parallel: int = 1


_ALONE, WHOLE = World(), Execution()


@dataclass
class Position:
    """How far a training has come: finished steps, tokens without padding, and seconds of training."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Trainer:
    """One objective with its optimizers, trained step by step by the ranks of ``world``.

    The global batch of a step is ``recipe.batch_size`` rows, however they are cut over ranks and micro-batches: the
    losses divide by the counts of the global batch, the uniforms of a row follow from (seed, number of the row), and
    dropout is seeded by (seed, step, rank). Only rounding and dropout depend on the cut.

    Args:
        objective: the model and its loss, with the same weights on every rank.
        recipe: batch size, learning rates, warm-up, weight decay, clipping.
        schedule: phases and steps.
        seed: decides the order of the rows and every draw.
        world: the ranks.
        execution: how a step is computed.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        schedule: Schedule,
        *,
        seed: int,
        world: World = _ALONE,
        execution: Execution = WHOLE,
    ) -> None:
        self.recipe, self.schedule, self.seed = recipe, schedule, seed
        self.world, self.execution = world, execution
        self.objective = objective.to(world.device).train()
        self.bfloat16 = has_native_bfloat16(world.device)
        self.position = Position()
        self._sums: dict[str, Tensor] = {}
        # Here torch imports its compiler. An exception of a signal handler in that import aborts the process.
        with stop_signals_deferred():
            self.module = self._wrapped()
            self.optimizers = make_optimizers(self.objective, recipe)

    def train(
        self, sources: Sequence[RowSource], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[StepRecord]:
        """Train from `position` to the end of the schedule, or until ``stop`` is true after a step.

        Args:
            sources: the rows of each phase.
            stop: called after every step, and must give the same answer on all ranks.

        Yields:
            The record of the steps since the last one: every `LOG_EVERY` steps, and after the last step.
        """
        for phase, first, rows in zip(self.schedule.phases, self.schedule.starts, sources, strict=True):
            end = first + phase.steps
            if self.position.step >= end:
                continue
            with closing(self.loader(rows, first)) as loader:
                recorded, started, waited = self.position.step, time.monotonic(), loader.waited
                for batch in loader:
                    self.step(batch)
                    is_stopped = stop()
                    if self.position.step % LOG_EVERY == 0 or self.position.step == end or is_stopped:
                        yield self._record(self.position.step - recorded, started, loader.waited - waited)
                        recorded, started, waited = self.position.step, time.monotonic(), loader.waited
                    if is_stopped:
                        return
                    if self.position.step == end:
                        break

    @stop_signals_deferred()
    def step(self, batch: TokenBatch) -> None:
        """Train on this rank's rows of the next global batch, on the device of the rank."""
        position, objective = self.position, self.objective
        fraction = self.schedule.fraction(position.step + 0.5)  # at its start, the first rate would be 0
        torch.manual_seed(_dropout_seed(self.seed, position.step, self.world.rank))
        for optimizer in self.optimizers:
            scale_learning_rate(optimizer, learning_rate_scale(fraction, self.recipe.warmup))
            optimizer.zero_grad(set_to_none=True)
        # All parts are masked before the first forward pass, because the losses divide by the counts of all of them.
        rows = self.execution.micro_batch or len(batch.input_ids)
        parts = [objective.batch(part, self.seed) for part in batch.split(rows)]
        counts = self.world.sum(torch.stack([objective.counts(part) for part in parts]).sum(0))
        for number, part in enumerate(parts, start=1):
            with self._synchronized(number == len(parts)):
                with torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
                    loss, metrics = self.module(part, fraction, counts)
                (loss * self.world.size).backward()  # both wrappers average the gradients of the ranks
            self._add(metrics)
        self._add({"gradient_norm": self._clip(), "padding": _padding(batch)})
        for optimizer in self.optimizers:
            optimizer.step()
        position.step += 1

    def _record(self, steps: int, started: float, waited: float) -> StepRecord:
        """The means of the metrics since the last record, over all ranks.

        Args:
            steps: since the last record.
            started: the time of the last record, by the clock of ``time.monotonic``.
            waited: seconds since then in which this rank waited for data.
        """
        names = sorted(self._sums)
        sums = self.world.sum(torch.stack([self._sums[name] for name in names]))
        metrics = means(dict(zip(names, sums)))
        padded, cells = sums[names.index("padding")].tolist()
        seconds = time.monotonic() - started  # a GPU has finished the steps only now
        self._sums = {}
        tokens = round(cells - padded)
        self.position.tokens += tokens
        self.position.seconds += seconds
        metrics |= {
            "tokens_per_second": tokens / seconds,
            "steps_per_second": steps / seconds,
            "data_wait": waited / seconds,
        }
        return StepRecord(
            step=self.position.step,
            steps=self.schedule.steps,
            tokens=self.position.tokens,
            seconds=self.position.seconds,
            learning_rates={
                name: optimizer.param_groups[0]["lr"]
                for name, optimizer in zip(("learning_rate", "muon_learning_rate"), self.optimizers)
            },
            metrics=metrics,
        )

    def loader(self, rows: RowSource, first: int = 0) -> Loader:
        """The batches of this rank from `position` on, of a phase that begins with step ``first``."""
        return Loader(
            rows,
            seed=self.seed + first,  # two phases of one length do not repeat the order of the rows
            batch_size=self.recipe.batch_size,
            device=self.world.device,
            first_step=self.position.step - first,
            first_row=first * self.recipe.batch_size,
            rank=self.world.rank,
            ranks=self.world.size,
        )

    def _wrapped(self) -> nn.Module:
        """The objective as the ranks train it; its own parameters are those of the wrapper."""
        objective, layers = self.objective, self.objective.layers()
        self._share_vocabulary()
        if self.execution.checkpoint_layers:
            objective.checkpoint_layers()
        if self.execution.compile:
            for layer in layers:
                layer.compile()
        if self.execution.shard:
            for module in (*layers, objective):
                fully_shard(module)
            return objective
        if self.world.size == 1:
            return objective
        device = self.world.device
        with warnings.catch_warnings():  # the new name of broadcast_buffers begins with torch 2.13
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                objective,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,  # no objective changes a buffer
                gradient_as_bucket_view=True,
                find_unused_parameters=self.recipe.head_start > 0
                and self.recipe.head_start_replacements is None,
            )

    def _share_vocabulary(self) -> None:
        """Let the ranks of a group share the output layer of each generator."""
        ranks = self.execution.vocab_parallel
        if ranks == 1:
            return
        shape, names = (self.world.size // ranks, ranks), ("data", "vocabulary")
        mesh = init_device_mesh(self.world.device.type, shape, mesh_dim_names=names)["vocabulary"]
        for module in self.objective.modules():
            if isinstance(module, GeneratorHead):
                module.mesh = mesh

    def _synchronized(self, is_last: bool) -> AbstractContextManager[None]:
        """Exchange gradients between the ranks in the last micro-batch only."""
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(is_last)
        if isinstance(self.module, DistributedDataParallel) and not is_last:
            return self.module.no_sync()
        return contextlib.nullcontext()

    def _clip(self) -> Tensor:
        """Scale the gradients down where the recipe limits their norm; returns the norm as a metric, [2]."""
        parameters = [p for p in self.objective.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip, norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return ratio(norm, torch.ones_like(norm))

    def _add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            known = self._sums.get(name)
            self._sums[name] = value if known is None else known + value


def _padding(batch: TokenBatch) -> Tensor:
    is_padding = ~batch.attention_mask
    return ratio(is_padding.sum(), is_padding.new_full((), is_padding.numel(), dtype=torch.int64))


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return (seed * _MIXED + (step << 20) + rank) & (2**63 - 1)
