"""The length of a training in phases of one row length each, and the learning rate that follows its progress."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Phase:
    """Steps with rows of one length.

    Attributes:
        length: tokens per row, T.
        steps: number of steps.
    """

    length: int
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, should be at least 1")


@dataclass(frozen=True)
class Schedule:
    """The phases of a training. The number of steps is known before it begins, so every run reaches its end."""

    phases: tuple[Phase, ...]

    @property
    def steps(self) -> int:
        """The number of steps of the whole training."""
        return sum(phase.steps for phase in self.phases)

    @property
    def starts(self) -> list[int]:
        """The first step of each phase."""
        return [0, *accumulate(phase.steps for phase in self.phases)][:-1]

    def phase_of(self, step: int) -> int:
        """The index of the phase to which the last of ``step`` finished steps belongs."""
        return bisect_left(self.starts, step, lo=1) - 1

    def fraction(self, step: float) -> float:
        """The finished share of the training after ``step`` steps, in [0, 1]. ``step`` may lie within a step (0.5)."""
        return min(1.0, step / self.steps)

    def __str__(self) -> str:
        return ",".join(f"{phase.length}:{phase.steps}" for phase in self.phases)


def one_phase(length: int, steps: int) -> Schedule:
    """A training whose rows all have the same length."""
    return Schedule((Phase(length, steps),))


def parse_schedule(text: str) -> Schedule:
    """Read LENGTH:STEPS[,LENGTH:STEPS...], for example ``128:900000,512:100000``.

    Raises:
        ValueError: the text has another form.
    """
    phases = [re.fullmatch(r"\s*(\d{1,9}):(\d{1,12})\s*", part) for part in text.split(",")]
    if not all(phases):
        raise ValueError(f"{text!r} should be LENGTH:STEPS,LENGTH:STEPS, such as 128:900000,512:100000")
    return Schedule(tuple(Phase(int(phase[1]), int(phase[2])) for phase in phases if phase))


def learning_rate_scale(fraction: float, warmup: float) -> float:
    """The learning rate over its peak: linear warm-up from 0 in the first share ``warmup``, then linear decay to 0."""
    if fraction < warmup:
        return fraction / warmup
    return (1.0 - fraction) / (1.0 - warmup)
