"""Times contenders side by side: interleaved in one process, so that a slow moment of the machine hits all.

A round runs each contender for a few milliseconds, one after the other; a ratio is the median over the rounds of the
ratio within a round. The physical floors, reading and writing as many bytes as the work has to, run in the same rounds.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from benchmarks.meters import HostMeter, Meter, Run, peak_extra_bytes

# Of an idea's cases. "full": all; "quick": one small one per op; "tiny": one per op with every contender, for the
# interpreter of Triton too.
Size = Literal["full", "quick", "tiny"]


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
        back_to_back: runs follow one another as in a training loop; where a GPU waits for the host, that counts.
    """

    op: str
    sizes: Mapping[str, int]
    contenders: Mapping[str, Run]
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
_LONG_RUN = 0.3


def measure(
    case: Case, *, budget: float, rounds: int | None = None, meter: Meter | None = None
) -> list[Measurement]:
    """Time every contender of a case, then its memory; the first contender is the baseline.

    Args:
        case: what to measure.
        budget: seconds that all rounds together may take; 3 to 9 rounds are made.
        rounds: as many instead, at least 2.
        meter: what measures; by default the host's clock.
    """
    meter = HostMeter() if meter is None else meter
    floors = meter.floors(case.bytes_read, case.bytes_written)
    first = [_first(run, case, meter) for run in case.contenders.values()]
    once = [*(_once(floor, meter, False) for floor in floors), *(seconds for seconds, _ in first)]
    timed = [*((floor, False) for floor in floors)]
    timed += [(run, case.back_to_back) for run in case.contenders.values()]
    blocks = [meter.block(seconds, together) for seconds, (_, together) in zip(once, timed)]

    def one_round() -> list[float]:
        return [meter.seconds(run, block, together) for (run, together), block in zip(timed, blocks)]

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
        for name, seconds, (_, extra) in zip(case.contenders, columns[2:], first)
    ]


def _once(run: Run, meter: Meter, back_to_back: bool) -> float:
    """Seconds of one run, after one that warms up."""
    meter.seconds(run, 1, back_to_back)
    return meter.seconds(run, 1, back_to_back)


def _first(run: Run, case: Case, meter: Meter) -> tuple[float, int | None]:
    """Seconds of one run and its memory. A long run tells both at once; a short one is mostly warming up."""
    start = time.perf_counter()
    extra = _extra_bytes(run, case.gradient_bytes, meter)
    seconds = time.perf_counter() - start
    if seconds > _LONG_RUN:
        return seconds, extra
    return _once(run, meter, case.back_to_back), _extra_bytes(run, case.gradient_bytes, meter)


def _extra_bytes(run: Run, gradient_bytes: int, meter: Meter) -> int | None:
    peak = peak_extra_bytes(run, meter.device)
    return None if peak is None else max(0, peak - gradient_bytes)
