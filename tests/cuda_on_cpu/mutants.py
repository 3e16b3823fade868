"""Mutants of the CUDA kernels: each has one fault, which the conformance suite has to detect.

The kernels themselves list the mutants: each name in an EK_BARRIER, EK_CLUSTER_BARRIER, EK_WAIT_FOR_FIRST, EK_BOUND or
EK_MUTANT is a mutant without that barrier, wait or bound. The name begins with that of the test file that has to fail:
masking_words_complete belongs to tests/conformance/test_masking.py. All faults are switches of one library, so a
mutant is a fork of a process that has everything loaded. ``python tests/cuda_on_cpu suite`` runs the suite without any.
"""

import gc
import os
import re
import signal
import sys
import time
from pathlib import Path

import fiber_backend  # noqa: F401
import pytest
from library import FOLDER, ROOT

PATTERN = re.compile(r"\bEK_(?:BARRIER|CLUSTER_BARRIER|WAIT_FOR_FIRST|BOUND|MUTANT)\((\w+)")
PYTEST = ["-q", "-k", "cuda-cpu", "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-p", "no:xdist"]
SECONDS = 120  # a mutant that hangs is caught too
AT_ONCE = 2


def names() -> list[str]:
    sources = (path for path in (ROOT / "csrc" / "cuda").iterdir() if path.name != "device.h")
    found = {name for path in sources for name in PATTERN.findall(path.read_text())}
    return sorted(found)


def test_file(name: str) -> Path:
    """The test file that has to fail: the one with the longest name that the mutant's name begins with."""
    files = (ROOT / "tests" / "conformance").glob("test_*.py")
    matching = [path for path in files if name.startswith(path.stem.removeprefix("test_") + "_")]
    if not matching:
        raise SystemExit(
            f"mutant {name}: its name should begin with that of a file tests/conformance/test_*.py"
        )
    return max(matching, key=lambda path: len(path.stem))


def start(name: str, log: Path) -> int:
    """Run the mutant's tests in a fork, up to the first failure.

    Returns:
        The process id of the fork.
    """
    process = os.fork()
    if process:
        return process
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["EK_MUTANT"] = name
    signal.alarm(SECONDS)
    # Disables the plugin that collects garbage at the end, which takes longer than the tests.
    os._exit(pytest.main([*PYTEST, "-x", "--tb=line", "-p", "no:unraisableexception", str(test_file(name))]))


def outcome(status: int, log: Path) -> str | None:
    """How the mutant was caught; None if it was not."""
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    text = log.read_text(errors="replace")
    # AddressSanitizer turns the signal of a crash into an exit status. pytest's dots may stand before the message.
    crash = re.search(r"Fatal Python error: (.+)", text)
    if crash and status != 0:
        return f"crashed: {crash[1]}"
    failed = re.search(r"^FAILED \S*?(\w+\.py::\S+)", text, re.MULTILINE)
    return failed[1] if failed and os.WEXITSTATUS(status) == pytest.ExitCode.TESTS_FAILED else None


def main() -> int:
    start_time = time.monotonic()
    folder = FOLDER / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    waiting, running, survivors = names(), {}, []
    # Collecting loads the test files before the forks start.
    pytest.main([*PYTEST, "-q", "--collect-only", *{str(test_file(name)) for name in waiting}])
    gc.freeze()
    total = len(waiting)
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            name = waiting.pop(0)
            running[start(name, folder / f"{name}.log")] = name
        process, status = os.wait()
        name = running.pop(process)
        caught = outcome(status, folder / f"{name}.log")
        print(f"{name:40} {caught or 'NOT CAUGHT'}", flush=True)
        if caught is None:
            survivors.append(name)
    print(f"{total - len(survivors)} of {total} mutants caught, {time.monotonic() - start_time:.0f} s")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
