"""Confidence intervals over a few seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


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
        ValueError: ``values`` is empty.
    """
    if not values:
        raise ValueError("values is empty, should hold at least one number")
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Interval(mean, math.nan)
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(count))


def tokens_to(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Tokens after which a curve of (tokens, figure) first reaches the target; None if it never does.

    The curve is interpolated linearly between its points.
    """
    before: tuple[float, float] | None = None
    for tokens, figure in curve:
        if figure >= target:
            if before is None or figure == before[1]:
                return tokens
            return before[0] + (tokens - before[0]) * (target - before[1]) / (figure - before[1])
        before = (tokens, figure)
    return None
