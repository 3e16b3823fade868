"""What a few runs that differ only in their seed allow to say."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t at 97.5 %, by degrees of freedom from 1: what 95 % intervals of a mean take.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_T_BEYOND = 2.228  # of 10 degrees, which is more than those above that have it need


@dataclass(frozen=True)
class Interval:
    """Mean over seeds, and half the width of its 95 % interval; NaN for a single seed."""

    mean: float
    half_width: float

    def __format__(self, sign: str) -> str:
        """``sign`` as for a number: "" or "+"."""
        mean = format(self.mean, f"{sign}.3f")
        return mean if math.isnan(self.half_width) else f"{mean} ± {self.half_width:.3f}"

    def __str__(self) -> str:
        return format(self)


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean: t s / sqrt(n) (Student 1908).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("values: there are none, should be at least one")
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Interval(mean, math.nan)
    quantile = _T[count - 2] if count - 2 < len(_T) else _T_BEYOND
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(count))


def tokens_to(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Tokens after which a curve of (tokens, figure) first reaches the target, None if it does not.

    Between two points the curve is a straight line.
    """
    before: tuple[float, float] | None = None
    for tokens, figure in curve:
        if figure >= target:
            if before is None or figure == before[1]:
                return tokens
            return before[0] + (tokens - before[0]) * (target - before[1]) / (figure - before[1])
        before = (tokens, figure)
    return None
