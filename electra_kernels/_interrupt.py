"""How a signal ends the command line: with one line, without a traceback, and from the first import on.

Importing this package loads torch, which takes seconds. In that time no function of the command line can catch
KeyboardInterrupt. Therefore `electra_kernels` imports this module first. In processes of the command line, and only
there, it installs handlers that end the process at once. `stop_signals_raise` replaces them while a command runs.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, so that a command ends as it does with Ctrl-C."""


_received: type[KeyboardInterrupt] | None = None  # by `stop_signals_raise`


def describe_stop(stop: type[KeyboardInterrupt]) -> tuple[str, int]:
    """The word for the message, and the exit status: 128 plus the number of the signal."""
    if issubclass(stop, Terminated):
        return "terminated", 128 + signal.SIGTERM
    return "interrupted", 128 + signal.SIGINT


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Within the block SIGINT raises KeyboardInterrupt and SIGTERM raises `Terminated`."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    global _received
    _received = None
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _install(signal.SIGINT, _raise_stop)
    _install(signal.SIGTERM, _raise_stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is _exit_at_once and "RANK" in os.environ:
                signal.signal(number, signal.SIG_IGN)  # see `ignore_torchrun`
            elif handler is not None:
                signal.signal(number, handler)


def raise_lost_stop() -> None:
    """Raise the exception of a signal that has arrived in `stop_signals_raise`, if one has.

    Native code, such as that of safetensors and tokenizers, turns an exception of its Python callbacks into an error of
    its own. Whoever reports an error calls this first.
    """
    if _received is not None:
        raise _received


def ignore_torchrun() -> None:
    """To be called by a process that is ending with an error.

    As soon as one process has ended, torchrun sends SIGTERM to the others. They may be about to end themselves, with a
    message and a status that say more.
    """
    if "RANK" in os.environ and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _install(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
    # A shell starts background processes with SIGINT ignored; they keep ignoring it.
    if signal.getsignal(number) not in (signal.SIG_IGN, None):
        signal.signal(number, handler)


def _raise_stop(number: int, frame: FrameType | None) -> NoReturn:
    global _received
    _received = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    raise _received


def _exit_at_once(number: int, frame: FrameType | None) -> NoReturn:
    word, status = describe_stop(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    # The parent process prints the line for the processes that it has started.
    if "--multiprocessing-fork" not in sys.orig_argv:
        print(f"electra-kernels: error: {word}", file=sys.stderr, flush=True)
    os._exit(status)


def _is_command_line() -> bool:
    """Whether this process is the console script, ``python -m electra_kernels``, or was started by either."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # set by Python while it imports the package of the module to run
        return "electra_kernels" in sys.orig_argv
    name = os.path.basename(program)
    return name == "electra-kernels" or program.endswith(os.path.join("electra_kernels", "__main__.py"))


if _is_command_line() and threading.current_thread() is threading.main_thread():
    _install(signal.SIGINT, _exit_at_once)
    _install(signal.SIGTERM, _exit_at_once)
