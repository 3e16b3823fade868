"""The scheduler of `make gpu-check`, in a process of its own, on sections that are shell scripts."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest

# Arguments: a folder, jobs as [name, script, seconds], and code to run first.
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from benchmarks.gpu import check, scheduler

folder, jobs, change = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGTERM, check._exit)
exec(change)
outcomes = scheduler.run_all(
    [scheduler.Job(name, ["/bin/sh", "-c", script], seconds) for name, script, seconds in jobs],
    folder,
    os.environ | {"HERE": str(folder)},
    lambda: scheduler.copy_results(folder / "out", [folder], began),
)
"""
CLOCK = "began = time.time() - 0.1\n"


@pytest.fixture
def schedule(tmp_path):
    """Runs jobs; returns the process, the outcomes that it wrote and the seconds that it took."""

    def run(*jobs, change=""):
        start = time.monotonic()
        command = [sys.executable, "-c", PROGRAM, tmp_path, json.dumps(jobs), CLOCK + change]
        process = subprocess.run(command, capture_output=True, text=True, timeout=60)
        outcomes = json.loads((tmp_path / "outcomes.json").read_text())
        return process, outcomes, time.monotonic() - start

    return run


def assert_dead(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            assert stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return


def test_outcomes_and_output_of_sections(schedule):
    process, outcomes, _ = schedule(
        ("good", "echo fine", 9), ("bad", "exit 1", 9), ("small", "exit 77", 9), ("dead", "kill -SEGV $$", 9)
    )
    assert process.returncode == 0, process.stderr
    assert outcomes == {"good": "passed", "bad": "failed", "small": "skipped", "dead": "ended by SIGSEGV"}
    assert "== good\nfine\n-- good: passed" in process.stdout


def test_a_section_that_ignores_sigterm_is_killed_and_the_next_one_runs(schedule):
    _, outcomes, seconds = schedule(
        ("deaf", "trap '' TERM INT HUP; while true; do sleep 0.1; done", 0.5), ("next", "true", 9)
    )
    assert outcomes == {"deaf": "stopped after 0 s", "next": "passed"}
    assert seconds < 5


@pytest.mark.parametrize(
    "end, seconds, outcome", [("exit 0", 30, "passed"), ("sleep 100", 1, "stopped after 1 s")]
)
def test_a_process_that_left_its_process_group_is_ended_too(schedule, tmp_path, end, seconds, outcome):
    daemon = (
        "(setsid sh -c 'echo $$ > $HERE/daemon; exec sleep 100' &); while ! test -s $HERE/daemon; do :; done"
    )
    _, outcomes, _ = schedule(("forks", f"{daemon}; {end}", seconds))
    assert outcomes == {"forks": outcome}
    assert_dead(int((tmp_path / "daemon").read_text()))


def test_unused_time_of_a_section_goes_to_the_next_one(schedule):
    _, outcomes, _ = schedule(("quick", "true", 2), ("slow", "sleep 0.3", 0.1), ("slower", "sleep 9", 0.1))
    assert outcomes.pop("slower").startswith("stopped after ")
    assert outcomes == {"quick": "passed", "slow": "passed"}


def test_a_process_that_cannot_be_killed_does_not_block_the_rest(schedule, tmp_path):
    # Signals have no effect, as on a process that waits in a driver.
    unkillable = "os.kill = lambda pid, number: None; scheduler.PATIENCE = 0.3"
    _, outcomes, seconds = schedule(
        ("stuck", "echo $$ > $HERE/stuck; exec sleep 100", 0.2), ("next", "true", 9), change=unkillable
    )
    stuck = int((tmp_path / "stuck").read_text())
    os.kill(stuck, signal.SIGKILL)
    assert outcomes == {
        "stuck": f"stopped after 0 s; cannot be killed: process {stuck}",
        "next": "passed",
    }
    assert seconds < 5


def test_results_and_logs_are_copied_after_each_section(schedule, tmp_path):
    (tmp_path / "old.json").write_text("{}")
    os.utime(tmp_path / "old.json", (0, 0))
    _, outcomes, _ = schedule(
        ("one", "echo words; echo {} > $HERE/device.json; echo x > $HERE/binary.o", 9),
        ("two", "test -s $HERE/out/device.json && test -s $HERE/out/logs.tar.gz", 9),
    )
    assert outcomes == {"one": "passed", "two": "passed"}
    home = tmp_path / "out"
    assert sorted(path.name for path in home.iterdir()) == ["device.json", "logs.tar.gz", "outcomes.json"]
    assert json.loads((home / "outcomes.json").read_text()) == outcomes
    with tarfile.open(home / "logs.tar.gz") as archive:
        assert archive.extractfile("one.log").read() == b"words\n"
        assert archive.getnames() == ["one.log", "two.log"]


def test_a_folder_that_cannot_be_written_is_reported_and_does_not_stop_the_run(schedule, tmp_path):
    (tmp_path / "out").write_text("a file")
    process, outcomes, _ = schedule(("one", "true", 9), ("two", "true", 9))
    assert outcomes == {"one": "passed", "two": "passed"}
    assert process.returncode == 0
    assert f"gpu-check: nothing was copied to {tmp_path / 'out'}: " in process.stderr


def test_sigterm_ends_the_section_and_copies_the_results_so_far(schedule, tmp_path):
    process, outcomes, _ = schedule(
        ("one", "sleep 100 & echo $! > $HERE/child; echo {} > $HERE/device.json; kill -TERM $PPID; wait", 30)
    )
    assert process.returncode == 128 + signal.SIGTERM
    assert outcomes == {"one": "interrupted"}
    assert (tmp_path / "out" / "device.json").exists()
    assert_dead(int((tmp_path / "child").read_text()))


def test_a_signal_is_deferred_until_the_section_is_registered():
    from benchmarks.gpu import scheduler

    received = []
    previous = signal.signal(signal.SIGTERM, lambda *arguments: received.append(arguments))
    try:
        with scheduler._held_back(signal.SIGTERM):
            signal.raise_signal(signal.SIGTERM)
            assert not received
        assert received
    finally:
        signal.signal(signal.SIGTERM, previous)


RESUMED = """
import sys
from pathlib import Path
from benchmarks.gpu import check, plan

folder = Path(sys.argv[1])
sys.executable = str(folder / "python")
check.FOLDER, check.RESULTS = folder / "build", folder
for only, out in ((["proofs"], "first"), (["bench_bce", "steps"], "second")):
    assert check._run_all(plan.select(only), True, folder / out) == 0
"""


def test_a_second_call_runs_only_the_named_sections_and_keeps_the_results(tmp_path):
    """A stand-in for Python appends the name of the section, its fourth argument, to the results."""
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$4" >> {tmp_path}/device.json\n')
    (tmp_path / "python").chmod(0o755)
    subprocess.run([sys.executable, "-c", RESUMED, tmp_path], check=True, capture_output=True)
    first, second = ((tmp_path / out / "device.json").read_text().split() for out in ("first", "second"))
    assert first == ["build", "conformance_triton", "conformance_cuda", "offsets", "conclusion"]
    assert second[len(first) :] == [
        "build",
        "bench_bce",
        "linear_head",
        "step_small",
        "step_base",
        "conclusion",
    ]
    outcomes = json.loads((tmp_path / "second" / "outcomes.json").read_text())
    assert list(outcomes) == second[len(first) :]
