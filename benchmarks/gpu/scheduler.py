"""Runs one command after the other, ends each with all its processes when its time is over, and collects the results.

This module imports nothing that could touch the GPU, so a hanging driver cannot stop it.
"""

import contextlib
import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.plan import ROOT

SKIPPED = 77  # exit status of a section that needs more memory than the machine has
# Seconds that killed processes have to end. A process that waits for a driver may never end.
PATIENCE = 5.0
_POLL = 0.05
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Job:
    """A section as a command.

    Attributes:
        name: name of the section; its output goes to NAME.log.
        command: program and arguments.
        seconds: after which all its processes are killed. Time that earlier jobs did not use is added.
    """

    name: str
    command: Sequence[str]
    seconds: float


def run_all(
    jobs: Iterable[Job], folder: Path, environment: Mapping[str, str], after: Callable[[], None]
) -> dict[str, str]:
    """Run the jobs; returns the outcome of each: "passed", "failed", "skipped", or why it was ended.

    Args:
        jobs: in this order.
        folder: for the logs and for outcomes.json, which is written after each job.
        environment: environment variables of the commands.
        after: called after each job, also if an exception ended it.
    """
    adopt_orphans()
    end, outcomes = time.monotonic(), dict[str, str]()
    for job in jobs:
        print(f"\n== {job.name}", flush=True)
        start = time.monotonic()
        end += job.seconds
        outcomes[job.name] = "interrupted"
        try:
            outcomes[job.name] = run(job, end - start, folder / f"{job.name}.log", environment)
        finally:
            (folder / "outcomes.json").write_text(json.dumps(outcomes, indent=1) + "\n")
            after()
        print(f"-- {job.name}: {outcomes[job.name]}, {time.monotonic() - start:.0f} s", flush=True)
    return outcomes


def run(job: Job, seconds: float, log: Path, environment: Mapping[str, str]) -> str:
    """Run one job and end every process that it started, also in other sessions; returns the outcome."""
    stuck = descendants()  # processes of earlier jobs that could not be killed
    process, status = None, None
    try:
        # A file, not a pipe: a pipe stays open while a stuck process lives, and its reader would wait.
        with log.open("wb") as output, _held_back(signal.SIGTERM), _held_back(signal.SIGINT):
            process = subprocess.Popen(
                job.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        status = _follow(process, log, time.monotonic() + seconds)
    finally:
        left = end_all(process, stuck) if process is not None else set()
    words = f"stopped after {seconds:.0f} s" if status is None else _words(status)
    if left:
        words += f"; cannot be killed: process {', '.join(map(str, sorted(left)))}"
    return words


def _words(status: int) -> str:
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return {0: "passed", SKIPPED: "skipped"}.get(status, "failed")


def _follow(process: subprocess.Popen[bytes], log: Path, deadline: float) -> int | None:
    """Print the log as it grows; returns the exit status, or None at the deadline."""
    with log.open("rb") as reading:
        while True:
            status = process.poll()
            sys.stdout.buffer.write(reading.read())
            sys.stdout.flush()
            if status is not None or time.monotonic() > deadline:
                return status
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it (Linux), so that `descendants` finds daemons too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> set[int]:
    """Ids of the processes below this one, without zombies."""
    table = _processes()
    found, ahead = set[int](), [os.getpid()]
    while ahead:
        above = ahead.pop()
        below = {pid for pid, (_, parent) in table.items() if parent == above} - found
        found |= below
        ahead += below
    return {pid for pid in found if table[pid][0] != "Z"}


def _processes() -> dict[int, tuple[str, int]]:
    """Id → state and parent, from /proc/ID/stat only: reading the command line of a stuck process may block."""
    table = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:  # the process has just ended
            continue
        table[int(stat.parent.name)] = state, int(parent)
    return table


def end_all(process: subprocess.Popen[bytes], stuck: set[int]) -> set[int]:
    """Kill all processes below this one except those known to be stuck; returns the ids that do not end."""
    deadline = time.monotonic() + PATIENCE
    while True:
        alive = descendants() - stuck
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        _reap_orphans(process.pid)
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(_POLL / 5)


def _reap_orphans(but: int) -> None:
    for pid, (state, parent) in _processes().items():
        if state == "Z" and parent == os.getpid() and pid != but:
            os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Deliver the signal after the block, in which it would leave a started process without an owner."""
    received = []
    previous = signal.signal(number, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(number, previous)
        if received:
            signal.raise_signal(number)


def copy_results(target: Path, folders: Iterable[Path], since: float) -> None:
    """Copy results written after ``since`` to a folder, and the logs as one archive.

    Each copy replaces the earlier one atomically. A failure is printed and does not stop the run.
    """
    files = [path for folder in folders for path in sorted(folder.glob("*")) if path.is_file()]
    written = [path for path in files if path.stat().st_mtime >= since]
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in written:
            if path.suffix in (".json", ".png"):
                shutil.copy2(path, target / f"{path.name}.part")
                (target / f"{path.name}.part").replace(target / path.name)
        _archive(target / "logs.tar.gz", [path for path in written if path.suffix in (".log", ".jsonl")])
    except OSError as error:
        print(f"gpu-check: nothing was copied to {target}: {error}", file=sys.stderr)


def _archive(target: Path, paths: Iterable[Path]) -> None:
    unfinished = target.with_name(f"{target.name}.part")
    with tarfile.open(unfinished, "w:gz") as archive:
        for path in paths:
            # Read it first: a process that cannot be killed may still write to it.
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    unfinished.replace(target)
