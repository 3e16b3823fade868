"""Times contenders side by side: interleaved in one process, so that a slow moment of the machine hits all."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.utils.benchmark import Timer


@dataclass(frozen=True)
class Case:
    """One line of work. ``contenders`` maps a name to a function of no arguments; the first is the baseline.

    ``bytes_moved`` is the least memory traffic of the work, as a formula of its shapes.
    """

    name: str
    contenders: Mapping[str, Callable[[], object]]
    bytes_moved: int


@dataclass(frozen=True)
class Measurement:
    contender: str
    median: float  # seconds
    spread: float  # interquartile range, seconds
    ratio: float  # baseline median / own median: above 1 is faster than the baseline
    floor: float  # own median / time to read bytes_moved on this machine


def measure(case: Case, *, rounds: int) -> list[Measurement]:
    timers = {
        name: Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
        for name, run in case.contenders.items()
    }
    floor_timer = _read_timer(case.bytes_moved)
    for timer in timers.values():
        timer.timeit(2)
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    floor = []
    for _ in range(rounds):
        floor.append(floor_timer.timeit(1).median)
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(1).median)
    baseline = statistics.median(next(iter(seconds.values())))
    return [_summary(name, times, baseline, statistics.median(floor)) for name, times in seconds.items()]


def _read_timer(bytes_moved: int) -> Timer:
    """Reading the same number of bytes is the physical floor of the work."""
    memory = torch.ones(max(1, bytes_moved // 4))
    return Timer("memory.sum()", globals={"memory": memory}, num_threads=torch.get_num_threads())


def _summary(name: str, times: list[float], baseline: float, floor: float) -> Measurement:
    median = statistics.median(times)
    quartiles = statistics.quantiles(times, n=4)
    return Measurement(name, median, quartiles[2] - quartiles[0], baseline / median, median / floor)
