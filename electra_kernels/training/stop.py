"""Ending a training on SIGINT or SIGTERM at a step on which all ranks agree."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from electra_kernels._interrupt import Terminated
from electra_kernels.files import STOP_SIGNALS
from electra_kernels.training.world import World


class StopRequest:
    """The signal that asks this process, or another rank, to stop; 0 until there is one."""

    def __init__(self, world: World) -> None:
        self.world, self.received, self.agreed = world, 0, 0

    def __call__(self) -> bool:
        """Whether any rank has received a signal. All ranks must ask at the same step, and get the same answer."""
        self.agreed = int(self.world.largest(self.received))
        return self.agreed != 0

    def error(self, message: str) -> KeyboardInterrupt:
        """The exception that ends the command with ``message`` and the exit status of the signal."""
        return Terminated(message) if self.agreed == signal.SIGTERM else KeyboardInterrupt(message)


@contextmanager
def stop_requests(world: World) -> Iterator[StopRequest]:
    """Within the block, the first SIGINT or SIGTERM is remembered instead of raised; a second one is raised.

    Under torchrun a second one is ignored: torchrun passes on what the terminal or the scheduler has sent already, and
    ends the other processes when the first of them has ended. It kills them itself if they take too long.
    """
    request, is_repeated = StopRequest(world), "RANK" in os.environ
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def remember(number: int, frame: FrameType | None) -> None:
        handler = previous[signal.Signals(number)]
        if request.received and callable(handler) and not is_repeated:
            handler(number, frame)
        request.received = request.received or number

    replaced = {n: handler for n, handler in previous.items() if handler not in (None, signal.SIG_IGN)}
    for number in replaced:
        signal.signal(number, remember)
    try:
        yield request
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
