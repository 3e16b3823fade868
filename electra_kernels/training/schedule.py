"""How far a run has come, whether its length is given in steps or in minutes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """A run of so many steps, or of so many minutes of wall-clock time if they are given.

    The learning rate follows `fraction`, so that a run of a fixed time decays to 0 on any machine. Only a run
    whose length is given in steps is the same on every machine.
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
        """Seconds since the run began."""
        return self.clock() - self.start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in the block takes no time of the run."""
        begin = self.clock()
        try:
            yield
        finally:
            self.start += self.clock() - begin

    def fraction(self, step: float) -> float:
        """How much of the run is over after ``step`` steps, in [0, 1]; half a step is its middle."""
        if self.minutes is None:
            return min(1.0, step / self.steps)
        return min(1.0, self.seconds() / (60 * self.minutes))


def learning_rate_scale(fraction: float, warmup: float) -> float:
    """Of the peak: linear warm-up from 0 over ``warmup`` of the run, then linear decay to 0 at its end."""
    if fraction < warmup:
        return fraction / warmup
    return (1.0 - fraction) / (1.0 - warmup)
