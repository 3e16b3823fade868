"""Times contenders side by side: interleaved in one process, so that a slow moment of the machine hits all.

A round runs each contender for a few milliseconds, one after the other; a ratio is the median over the rounds of the
ratio within a round. Speed alone is measured here.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
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
    median: float  # seconds per run
    spread: float  # interquartile range, seconds
    ratio: float  # time of the baseline / own time: above 1 is faster than the baseline
    floor: float  # own time / time to read bytes_moved on this machine


# A block shorter than this is mostly the clock and the scheduler.
_SHORTEST_BLOCK = 5e-3


def measure(case: Case, *, rounds: int) -> list[Measurement]:
    """Time every contender of a case in ``rounds`` rounds, at least 2; the first contender is the baseline."""
    floor, *timers = [
        _reading(case.bytes_moved),
        *(_timer("run()", run=run) for run in case.contenders.values()),
    ]
    blocks = [_block(timer) for timer in (floor, *timers)]
    seconds = [
        [timer.timeit(number).mean for timer, number in zip((floor, *timers), blocks)] for _ in range(rounds)
    ]
    floors, baseline, *_ = columns = list(zip(*seconds))
    return [_summary(name, times, baseline, floors) for name, times in zip(case.contenders, columns[1:])]


def _timer(statement: str, **names: object) -> Timer:
    return Timer(statement, globals=names, num_threads=torch.get_num_threads())


def _reading(bytes_moved: int) -> Timer:
    """Reading the same number of bytes is the physical floor of the work."""
    return _timer("memory.sum()", memory=torch.ones(max(1, bytes_moved // 4)))


def _block(timer: Timer) -> int:
    """How many runs make a block; the first call warms up."""
    timer.timeit(1)
    return max(1, round(_SHORTEST_BLOCK / timer.timeit(1).mean))


def _summary(
    name: str, times: Sequence[float], baseline: Sequence[float], floors: Sequence[float]
) -> Measurement:
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Measurement(name, median, upper - lower, _ratio(baseline, times), _ratio(times, floors))


def _ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(numerator, denominator))
