"""Short trials before a training: how many rows to take at once, on how many threads, and how long a step takes.

A trial trains the model that it is given, which is thrown away afterwards. So it changes nothing in the training.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch

from electra_kernels.data.batch import RowSource
from electra_kernels.errors import AgreedError
from electra_kernels.training.trainer import Trainer
from electra_kernels.training.world import World

_WARM_UP = 3  # steps; the first ones allocate memory and compile
_STEPS = 5  # the fewest whose median counts
_SECONDS = 3.0
_GAIN = 1.05  # a choice is worth more memory or threads if it is faster by this factor
_MEMORY = 0.4  # share of the free memory of a CPU that a trial may take before the next one, which takes twice as much
_SPARE = 0.1  # share of a GPU's memory that stays free, for the buffers of the exchange between ranks


def choose_micro_batch(trainer: Trainer, rows: RowSource, share: int, world: World) -> int:
    """The number of rows that train fastest at once, at most ``share``, the rows of one rank.

    The number doubles from 1 until the memory is almost full or the speed no longer rises. All ranks get the same
    number: the smallest that any of them has found.

    Args:
        trainer: a trainer of this process alone, for trials.
        rows: training rows.
        share: rows of one rank in a step.
        world: the ranks of the training.

    Raises:
        AgreedError: the memory of a GPU does not suffice for one row.
    """
    best, fastest = 0, 0.0
    for count in _doubling(share):
        free = _free_memory()
        try:
            speed = count / _part_seconds(trainer, rows, count)
        except torch.OutOfMemoryError:
            break
        if best and _is_almost_full(world.device):
            break
        if speed > fastest:
            best, fastest = count, speed
        elif speed * _GAIN < fastest:
            break
        if world.device.type == "cpu" and free - _free_memory() > _MEMORY * free / world.local_size:
            break
    best = int(-world.largest(-best))
    if best == 0:
        raise AgreedError(
            f"a row of {rows.length} tokens does not fit in the memory of the GPU: --checkpoint-layers needs less. If "
            "--shard suffices, give --micro-batch too, because the trial does not spread the model over the ranks"
        )
    return best


def choose_threads(trainer: Trainer, rows: RowSource, count: int, world: World) -> int:
    """Set torch's number of threads to the fastest for ``count`` rows; returns it. On a GPU it stays as it is.

    More threads are not always faster: on a busy machine, or for a small model, a step with two threads can take
    several times as long as with one. The ranks of a machine share its cores and try the same number together.
    """
    if world.device.type != "cpu":
        return torch.get_num_threads()
    best, fastest = 1, float("inf")
    share = len(os.sched_getaffinity(0)) // world.local_size
    most = int(-world.largest(-max(1, share)))  # machines may differ
    for threads in _doubling(most):
        torch.set_num_threads(threads)
        seconds = world.largest(_part_seconds(trainer, rows, count))
        if seconds * _GAIN > fastest:
            break
        best, fastest = threads, seconds
    torch.set_num_threads(best)
    return best


def step_seconds(trainer: Trainer, rows: RowSource) -> float:
    """Median seconds of a whole step of all ranks, which call this together."""
    seconds: list[float] = []
    with closing(trainer.loader(rows)) as loader:
        begin = time.monotonic()
        for batch in loader:
            seconds.append(_seconds(lambda: trainer.step(batch), trainer.world, begin))  # noqa: B023
            is_enough = len(seconds) >= _WARM_UP + _STEPS and sum(seconds[_WARM_UP:]) >= _SECONDS
            if trainer.world.largest(is_enough):
                break
            begin = time.monotonic()
    return trainer.world.largest(statistics.median(seconds[_WARM_UP:]))


def steps_of_minutes(minutes: float, seconds_per_step: Sequence[float], shares: Sequence[float]) -> list[int]:
    """The steps of each phase if all of them together take ``minutes`` without evaluations.

    Args:
        minutes: length of the training.
        seconds_per_step: time of a step in each phase.
        shares: share of the steps that each phase has.
    """
    mean = sum(share * seconds for share, seconds in zip(shares, seconds_per_step, strict=True))
    return [max(1, round(share * 60 * minutes / mean)) for share in shares]


def _part_seconds(trainer: Trainer, rows: RowSource, count: int) -> float:
    """Seconds of a step with ``count`` rows: the faster of two after a first one."""
    index = torch.arange(count) % len(rows)
    batch = rows.batch(index, index).to(trainer.world.device)
    seconds = [_seconds(lambda: trainer.step(batch), trainer.world) for _ in range(3)]
    return min(seconds[1:])


def _seconds(step: Callable[[], None], world: World, begin: float | None = None) -> float:
    begin = time.monotonic() if begin is None else begin
    step()
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return time.monotonic() - begin


def _is_almost_full(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    return free < _SPARE * total


def _doubling(most: int) -> Iterator[int]:
    """1, 2, 4, ... and ``most``."""
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most


def _free_memory() -> float:
    """Bytes that programs may still allocate on this machine; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    free = (float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return next(free, float("inf"))
