"""Times the variants of a case side by side in one process, so that a slow moment of the machine hits all of them.

A round runs each variant for a few milliseconds, one after the other. A ratio is the median over the rounds of the
ratio within a round. The physical floors, which only read and write the bytes that the work needs, run in the same
rounds.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from benchmarks.timers import HostTimer, Run, Timer, peak_extra_bytes

# The cases of an op to build. "full": all; "quick": a small one per op; "tiny": one per op with every variant, small
# enough for Triton's interpreter.
Size = Literal["full", "quick", "tiny"]


@dataclass(frozen=True)
class Case:
    """One op at one size and dtype.

    Attributes:
        op: name of the measured op.
        sizes: symbol → number, as N, V, E.
        variants: name → function of no arguments; the first is the baseline.
        bytes_read, bytes_written: the least memory traffic of the work, computed from its sizes.
        gradient_bytes: size of the gradients that the variants return.
        dtype: dtype of the floating-point inputs.
        absent: variant that cannot run here → why.
        is_main: the size of the op that the plot shows and that has all variants.
        adds_to_baseline: the baseline is a part of the others' work, and the result is the time that they add to it.
        back_to_back: runs follow one another as in a training loop, so time in which a GPU waits for the host counts.
    """

    op: str
    sizes: Mapping[str, int]
    variants: Mapping[str, Run]
    bytes_read: int
    bytes_written: int = 0
    gradient_bytes: int = 0
    dtype: torch.dtype = torch.float32
    absent: Mapping[str, str] = field(default_factory=dict)
    is_main: bool = False
    adds_to_baseline: bool = False
    back_to_back: bool = False

    @property
    def name(self) -> str:
        sizes = " ".join(f"{symbol}={size}" for symbol, size in self.sizes.items())
        return f"{self.op} {sizes} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Measurement:
    """Times of one variant. All sequences have one entry per round, in seconds per run."""

    variant: str
    seconds: Sequence[float]
    baseline: Sequence[float]
    reading: Sequence[float]  # floor: reading bytes_read
    traffic: Sequence[float]  # floor: reading bytes_read and writing bytes_written
    peak_extra_bytes: int | None  # without the gradients; None if the system cannot measure it

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
        """Time of the baseline over own time; above 1 is faster."""
        return ratio(self.baseline, self.seconds)

    @property
    def times_reading(self) -> float:
        """Own time over the time of reading ``bytes_read``."""
        return ratio(self.seconds, self.reading)

    @property
    def times_traffic(self) -> float:
        """Own time over the time of the whole memory traffic."""
        return ratio(self.seconds, self.traffic)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(numerator, denominator))


FEWEST_ROUNDS, MOST_ROUNDS = 3, 9
_LONG_RUN = 0.3


def measure(
    case: Case, *, budget: float, rounds: int | None = None, timer: Timer | None = None
) -> list[Measurement]:
    """Measure time and memory of every variant of a case; the first variant is the baseline.

    Args:
        case: the case to measure.
        budget: seconds for all rounds together, of which there are 3 to 9.
        rounds: number of rounds instead, at least 2.
        timer: the host's clock by default.
    """
    timer = HostTimer() if timer is None else timer
    floors = timer.floors(case.bytes_read, case.bytes_written)
    first = [_first_run(run, case, timer) for run in case.variants.values()]
    once = [*(_once(floor, timer, False) for floor in floors), *(seconds for seconds, _ in first)]
    timed = [*((floor, False) for floor in floors)]
    timed += [(run, case.back_to_back) for run in case.variants.values()]
    blocks = [timer.block(seconds, together) for seconds, (_, together) in zip(once, timed)]

    def one_round() -> list[float]:
        return [timer.seconds(run, block, together) for (run, together), block in zip(timed, blocks)]

    start = time.perf_counter()
    measured = [one_round()]
    if rounds is None:
        rounds = min(max(int(budget / (time.perf_counter() - start)), FEWEST_ROUNDS), MOST_ROUNDS)
    measured += [one_round() for _ in range(rounds - 1)]
    reading, traffic, baseline, *_ = columns = list(zip(*measured))
    if case.bytes_written == 0:
        traffic = reading
    return [
        Measurement(name, seconds, baseline, reading, traffic, extra)
        for name, seconds, (_, extra) in zip(case.variants, columns[2:], first)
    ]


def _once(run: Run, timer: Timer, back_to_back: bool) -> float:
    """Seconds of one run after a warm-up run."""
    timer.seconds(run, 1, back_to_back)
    return timer.seconds(run, 1, back_to_back)


def _first_run(run: Run, case: Case, timer: Timer) -> tuple[float, int | None]:
    """Seconds and extra memory of one run. A short first run is mostly warm-up, so it is repeated."""
    start = time.perf_counter()
    extra = _extra_bytes(run, case.gradient_bytes, timer)
    seconds = time.perf_counter() - start
    if seconds > _LONG_RUN:
        return seconds, extra
    return _once(run, timer, case.back_to_back), _extra_bytes(run, case.gradient_bytes, timer)


def _extra_bytes(run: Run, gradient_bytes: int, timer: Timer) -> int | None:
    peak = peak_extra_bytes(run, timer.device)
    return None if peak is None else max(0, peak - gradient_bytes)
