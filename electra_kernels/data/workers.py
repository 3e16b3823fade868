"""Tasks in several processes, with progress, that stop soon when the program is interrupted."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

from electra_kernels.errors import UserError

Task = Callable[[Callable[[int], None]], None]
_PAUSE = 0.2  # seconds between two reports
_state: dict[str, Any] = {}  # what a worker was started with


class _StoppedError(Exception):
    """Ends a task whose result nobody waits for."""


def run_tasks(tasks: Sequence[Task], processes: int, progress: Callable[[int], None]) -> None:
    """Run all tasks. One process, or one task, runs them here.

    Args:
        tasks: each is called with a function that it calls often, with the bytes processed since the last call.
        processes: number of processes.
        progress: called with the bytes that all tasks together have processed.

    Raises:
        UserError: a worker was killed.
        Exception: whatever a task raises; the others are stopped.
    """
    if processes == 1 or len(tasks) <= 1:
        _run_here(tasks, progress)
        return
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Value("b", 0)
    pool = ProcessPoolExecutor(min(processes, len(tasks)), context, _start, (done, stop))
    try:
        pending = {pool.submit(_run, task) for task in tasks}
        while pending:
            finished, pending = wait(pending, _PAUSE, FIRST_EXCEPTION)
            for future in finished:
                future.result()
            progress(done.get_obj().value)  # without its lock, which a killed worker may hold
    except BrokenProcessPool:
        raise UserError("a worker was killed, perhaps for lack of memory: give fewer --processes") from None
    finally:
        stop.value = 1
        pool.shutdown(cancel_futures=True)


def _run_here(tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
    total = 0

    def report(count: int) -> None:
        nonlocal total
        total += count
        progress(total)

    for task in tasks:
        task(report)


def _start(done: Any, stop: Any) -> None:
    """Prepare a worker. The parent process alone reacts to Ctrl-C; a worker ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _state.update(done=done, stop=stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _run(task: Task) -> None:
    done, stop = _state["done"], _state["stop"]

    def report(count: int) -> None:
        with done.get_lock():
            done.value += count
        if stop.value:
            raise _StoppedError

    task(report)
