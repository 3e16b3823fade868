"""How signals end the command line: with one line and no traceback, from the first import on.

Importing this package loads torch, which takes seconds, before any function of the command line can catch
KeyboardInterrupt. Therefore this module comes first there and, in the command line's own processes only, installs
handlers that end the process at once. `stop_signals_raise` replaces them for as long as a command runs.
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
    """SIGTERM: a command ends as it does with Ctrl-C."""


def outcome(stop: type[KeyboardInterrupt]) -> tuple[str, int]:
    """The word for the user, and the exit status: 128 and the number of the signal."""
    if issubclass(stop, Terminated):
        return "terminated", 128 + signal.SIGTERM
    return "interrupted", 128 + signal.SIGINT


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """In the block SIGINT raises KeyboardInterrupt, and SIGTERM `Terminated`."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _install(signal.SIGINT, signal.default_int_handler)
    _install(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:
                signal.signal(number, handler)


def _install(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
    # A shell starts background processes with SIGINT ignored; that is kept.
    if signal.getsignal(number) not in (signal.SIG_IGN, None):
        signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _end(number: int, frame: FrameType | None) -> NoReturn:
    word, status = outcome(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    if (
        "--multiprocessing-fork" not in sys.orig_argv
    ):  # the parent speaks for the processes that it has started
        print(f"electra-kernels: error: {word}", file=sys.stderr, flush=True)
    os._exit(status)


def _is_command_line() -> bool:
    """As the console script, as ``python -m electra_kernels``, or as a process that either has started."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # Python sets it while it imports the package of the module to run
        return "electra_kernels" in sys.orig_argv
    name = os.path.basename(program)
    return name == "electra-kernels" or program.endswith(os.path.join("electra_kernels", "__main__.py"))


if _is_command_line() and threading.current_thread() is threading.main_thread():
    _install(signal.SIGINT, _end)
    _install(signal.SIGTERM, _end)
