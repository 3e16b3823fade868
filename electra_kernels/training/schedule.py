"""Progress of a training whose length is given in steps or in minutes, and the learning rate that follows it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """The length of a training: a number of steps or, if they are given, minutes of wall-clock time.

    The learning rate follows `fraction`, so that a training of a fixed time decays to 0 on any machine. Only a
    training whose length is given in steps is the same on every machine.
    """

    clock = staticmethod(time.monotonic)

    def __init__(self, steps: int, minutes: float | None = None) -> None:
        if minutes is not None and not 0 < minutes < float("inf"):
            raise ValueError(f"minutes is {minutes}, should be a finite number above 0")
        if steps < 1:
            raise ValueError(f"steps is {steps}, should be at least 1")
        self.steps, self.minutes = steps, minutes
        self.start = self.clock()

    def seconds(self) -> float:
        """Seconds since the training began."""
        return self.clock() - self.start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the block."""
        begin = self.clock()
        try:
            yield
        finally:
            self.start += self.clock() - begin

    def fraction(self, step: float) -> float:
        """The finished share of the training after ``step`` steps, in [0, 1]. ``step`` may lie within a step (0.5)."""
        if self.minutes is None:
            return min(1.0, step / self.steps)
        return min(1.0, self.seconds() / (60 * self.minutes))


def learning_rate_scale(fraction: float, warmup: float) -> float:
    """The learning rate over its peak: linear warm-up from 0 in the first share ``warmup``, then linear decay to 0."""
    if fraction < warmup:
        return fraction / warmup
    return (1.0 - fraction) / (1.0 - warmup)
