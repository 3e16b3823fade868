"""Runs in processes of their own: the same results, and an end together with their parent."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from electra_kernels.evaluation.comparison.processes import in_processes
from electra_kernels.evaluation.comparison.runs import train_run
from electra_kernels.evaluation.comparison.setting import Run, steps_of

RUN = Run("corrupted_tokens", 3e-3, 1, budget=3_000)
PROGRAM = """
import sys
from pathlib import Path
from electra_kernels.evaluation.comparison import processes, runs, setting

endless = [setting.Run("corrupted_tokens", 1e-3, seed, budget=10**12) for seed in range(5)]
print(list(processes.in_processes(runs.train_run, Path(sys.argv[1]), endless, 1)))
"""


def test_runs_in_processes_of_their_own_give_the_same(setting, setting_file, tmp_path):
    (there,) = in_processes(train_run, setting_file, [RUN], 1)
    here = train_run(setting, RUN, tmp_path)
    assert there["curve"][-1]["figure"] == pytest.approx(here["curve"][-1]["figure"], abs=1e-3)


def test_no_more_processes_than_runs_are_started(setting, setting_file):
    """A queue for 10^18 processes cannot be made."""
    (record,) = in_processes(train_run, setting_file, [RUN], 10**18)
    assert record["steps"] == steps_of(setting, RUN.budget)


@pytest.fixture
def endless(setting_file):
    """A comparison in a process that trains without end in one child: (process, id of the child)."""
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM, setting_file], stderr=subprocess.PIPE)
    try:
        worker = _wait(lambda: _training_child(parent.pid))
        assert worker
        yield parent, worker
    finally:
        parent.kill()
        parent.communicate()


def test_a_killed_comparison_ends_its_runs(endless):
    parent, worker = endless
    parent.kill()
    parent.wait()
    assert _wait(lambda: not _command(worker))


def test_ctrl_c_ends_the_runs_at_once(endless):
    parent, worker = endless
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=60)
    assert _wait(lambda: not _command(worker))
    assert b"KeyboardInterrupt" in errors
    assert b"Exception in thread" not in errors


def _training_child(parent: int) -> int | None:
    """The child that has started its threads, and so its work; None if there is none yet."""
    for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
        if b"spawn_main" in _command(child):
            return child if len(list(Path(f"/proc/{child}/task").iterdir())) > 1 else None
    return None


def _command(process: int) -> bytes:
    """The command line of a process; empty if it has ended, also while it is a zombie."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    return None
