"""Runs of a comparison in processes of their own, which end with the process that started them."""

import os
import pickle
import signal
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from electra_kernels.evaluation.comparison.setting import Run, Setting

# (setting, run, folder of the encoders) → the record of the run, ready for JSON.
Work = Callable[[Setting, Run, Path], dict[str, Any]]


def in_processes(
    work: Work, path: Path, runs: Sequence[Run], processes: int
) -> Generator[dict[str, Any], None, None]:
    """The results of ``work`` for all runs, in the order in which they finish.

    Each process has one thread: two runs side by side on two cores are faster than one after the other on both.

    Args:
        work: `train_run`, `choice_run` or `probe_run`.
        path: the pickled `Setting`; the encoders are kept beside it.
        runs: the runs to do.
        processes: how many runs at once.
    """
    context = get_context("spawn")
    processes, others = min(processes, max(1, len(runs))), active_children()
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(path,)) as pool:
        waiting = [pool.submit(_do, work, run) for run in runs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BaseException:
            # Without this, leaving the pool would wait until its processes finish their runs. The pool gives up the
            # waiting runs by itself; if they were cancelled here, its thread would fail with an InvalidStateError.
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise


# The setting and the folder of the encoders, in a process of the pool.
_loaded: tuple[Setting, Path] | None = None


def _begin(path: Path) -> None:
    global _loaded
    Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of the terminal; the parent handles it, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # checkpoints of one process
    _loaded = pickle.loads(path.read_bytes()), path.parent


def _end_with_parent() -> None:
    """End this process as soon as the parent has ended, in whatever way."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _do(work: Work, run: Run) -> dict[str, Any]:
    assert _loaded is not None
    setting, folder = _loaded
    return work(setting, run, folder)
