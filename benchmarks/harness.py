"""Times contenders side by side: interleaved in one process, so that a slow moment of the machine hits all.

A round runs each contender for a few milliseconds, one after the other; a ratio is the median over the rounds of the
ratio within a round. The physical floors, reading and writing as many bytes as the work has to, run in the same rounds.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.benchmark import Timer

from benchmarks.memory import peak_extra_bytes


@dataclass(frozen=True)
class Case:
    """One line of work. ``contenders`` maps a name to a function of no arguments; the first is the baseline.

    Attributes:
        op: what is measured.
        sizes: symbol → number, as N, V, E.
        dtype: of the floating-point inputs.
        bytes_read, bytes_written: the least memory traffic of the work, as formulas of its sizes.
        gradient_bytes: of the gradients that the contenders return.
        absent: a contender that is not there → why.
        is_main: the size of the op that the figure shows and that has all contenders.
        adds_to_baseline: the baseline is a part of the work of the others; what they add to it is asked.
    """

    op: str
    sizes: Mapping[str, int]
    contenders: Mapping[str, Callable[[], object]]
    bytes_read: int
    bytes_written: int = 0
    gradient_bytes: int = 0
    dtype: torch.dtype = torch.float32
    absent: Mapping[str, str] = field(default_factory=dict)
    is_main: bool = False
    adds_to_baseline: bool = False

    @property
    def name(self) -> str:
        sizes = " ".join(f"{symbol}={size}" for symbol, size in self.sizes.items())
        return f"{self.op} {sizes} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Measurement:
    """One contender. All sequences have one entry per round, in seconds per run."""

    contender: str
    seconds: Sequence[float]
    baseline: Sequence[float]
    reading: Sequence[float]  # bytes_read
    traffic: Sequence[float]  # bytes_read and bytes_written
    peak_extra_bytes: int | None  # without the gradients; None where the system does not tell

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range."""
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return upper - lower

    @property
    def speedup(self) -> float:
        """Above 1: faster than the baseline."""
        return ratio(self.baseline, self.seconds)

    @property
    def times_reading(self) -> float:
        return ratio(self.seconds, self.reading)

    @property
    def times_traffic(self) -> float:
        return ratio(self.seconds, self.traffic)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(numerator, denominator))


FEWEST_ROUNDS, MOST_ROUNDS = 3, 9
# A block shorter than this is mostly the clock and the scheduler.
_SHORTEST_BLOCK = 5e-3
_LONG_RUN = 0.3


def measure(case: Case, *, budget: float, rounds: int | None = None) -> list[Measurement]:
    """Time every contender of a case, then its memory; the first contender is the baseline.

    Args:
        case: what to measure.
        budget: seconds that all rounds together may take; 3 to 9 rounds are made.
        rounds: as many instead, at least 2.
    """
    floors = [_reading(case.bytes_read), _writing(case.bytes_written)]
    runs = [_timer("run()", run=run) for run in case.contenders.values()]
    first = [_first(timer, run, case) for timer, run in zip(runs, case.contenders.values())]
    timers, once = [*floors, *runs], [*map(_once, floors), *(seconds for seconds, _ in first)]
    blocks = [max(1, round(_SHORTEST_BLOCK / seconds)) for seconds in once]
    round_seconds = sum(seconds * block for seconds, block in zip(once, blocks))
    if rounds is None:
        rounds = min(max(int(budget / round_seconds), FEWEST_ROUNDS), MOST_ROUNDS)
    measured = [[timer.timeit(block).mean for timer, block in zip(timers, blocks)] for _ in range(rounds)]
    reading, writing, baseline, *_ = columns = list(zip(*measured))
    traffic = [read + write if case.bytes_written else read for read, write in zip(reading, writing)]
    return [
        Measurement(name, seconds, baseline, reading, traffic, extra)
        for name, seconds, (_, extra) in zip(case.contenders, columns[2:], first)
    ]


def _timer(statement: str, **names: object) -> Timer:
    return Timer(statement, globals=names, num_threads=torch.get_num_threads())


def _reading(size: int) -> Timer:
    return _timer("memory.sum()", memory=torch.ones(max(1, size // 4)))


def _writing(size: int) -> Timer:
    return _timer("memory.zero_()", memory=torch.ones(max(1, size // 4)))


def _once(timer: Timer) -> float:
    """Seconds of one run, after one that warms up."""
    timer.timeit(1)
    return timer.timeit(1).mean


def _first(timer: Timer, run: Callable[[], object], case: Case) -> tuple[float, int | None]:
    """Seconds of one run and its memory. A long run tells both at once; a short one is mostly warming up."""
    start = time.perf_counter()
    extra = _extra_bytes(run, case.gradient_bytes)
    seconds = time.perf_counter() - start
    if seconds > _LONG_RUN:
        return seconds, extra
    return _once(timer), _extra_bytes(run, case.gradient_bytes)


def _extra_bytes(run: Callable[[], object], gradient_bytes: int) -> int | None:
    peak = peak_extra_bytes(run)
    return None if peak is None else max(0, peak - gradient_bytes)
