"""The processes of a training: one, or those that torchrun starts, and what they have to agree on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from electra_kernels.errors import AgreedError, UserError

T = TypeVar("T")
# Rank 0 may prepare text for hours while the others wait. If it dies, torchrun ends them.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class World:
    """The ranks of a training. The default is one process without ``torch.distributed``.

    Attributes:
        rank, size: number of this process, and of all processes.
        local_size: number of processes on this machine.
        device: device of this process.
        control: a gloo group for flags and objects on the CPU.
        saving: a gloo group of its own for checkpoints, whose thread communicates at any time.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, the only one that prints and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor on the device over all ranks, in place; it does not wait for the device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, value: float) -> float:
        """The largest ``value`` of all ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.control)
        return float(tensor)

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, in the order of the ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.control)
        return values

    def concatenate(self, tensor: Tensor) -> Tensor:
        """The tensors [n, ...] of all ranks, one after the other, on the CPU; n may differ."""
        return torch.cat(self.gather(tensor.cpu()))

    def everywhere(self, function: Callable[[], T]) -> T:
        """Call ``function`` on every rank; a `UserError` or OSError of one rank ends all of them.

        Raises:
            AgreedError: the error of the first rank that failed.
        """
        result, error = None, None
        try:
            result = function()
        except (UserError, OSError) as failure:
            error = _describe(failure)
        for rank, message in enumerate(self.gather(error)):
            if message is not None:
                raise AgreedError(message if rank == 0 else f"rank {rank}: {message}")
        return cast(T, result)

    def on_main(self, function: Callable[[], T]) -> T:
        """Call ``function`` on rank 0 only, and return its result, which is pickled, on every rank.

        Raises:
            AgreedError: rank 0 raised a `UserError` or an OSError.
        """
        result = self.everywhere(lambda: function() if self.is_main else None)
        results: list[Any] = [result]
        if self.size > 1:
            dist.broadcast_object_list(results, src=0, group=self.control)
        return cast(T, results[0])

    def require_same(self, name: str, value: object) -> None:
        """Check that all ranks have the same ``value``.

        Raises:
            AgreedError: one of them differs from rank 0.
        """
        values = self.gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise AgreedError(f"rank {rank} has {name} {other}, should be {values[0]} as rank 0")


def _describe(error: UserError | OSError) -> str:
    if isinstance(error, UserError):
        return str(error)
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


@contextmanager
def join_world() -> Iterator[World]:
    """Join the other processes of torchrun, if it started this one; the groups end with the block.

    The default group reduces gradients: NCCL on GPUs, gloo on CPUs.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"LOCAL_RANK is {local_rank}, should be below the number of GPUs of this machine, "
                f"{torch.cuda.device_count()}: lower --nproc-per-node"
            )
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32 where autocast leaves float32
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    alone: dict[str, Any] = (
        {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    )
    dist.init_process_group(backend, device_id=device if has_gpu else None, **alone)
    try:
        yield World(
            rank=dist.get_rank(),
            size=dist.get_world_size(),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            device=device,
            control=dist.new_group(backend="gloo", timeout=_PATIENCE),
            saving=dist.new_group(backend="gloo"),
        )
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0].rpartition("] ")[2].partition(". ")[0]
        raise UserError(f"rank {dist.get_rank()} has lost another rank: {reason}") from error
    finally:
        dist.destroy_process_group()
