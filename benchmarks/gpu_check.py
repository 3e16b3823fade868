"""``python -m benchmarks.gpu_check``: what an hour on a GPU is for, in 8 minutes: conformance, sanitizer, benchmarks.

Every section runs in a process of its own, within its own time, and puts what it finds into
benchmarks/results/DEVICE.json at once. It uses the Python that runs it as it is and needs no network. Only what
is in `gpu_sections` touches the device. Ends with 1 where a section did not pass; a target that is missed is only said.
"""

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "gpu_check"
# In this order, with the seconds of each: 8 minutes in all. What a section leaves, the next may use.
SECTIONS = {
    "build": 50,
    "conformance_triton": 90,
    "conformance_cuda": 30,
    "sanitizer": 50,
    "bench_masking": 15,
    "bench_sampling": 25,
    "bench_mlm_head": 35,
    "bench_bce": 15,
    "bench_rtd_head": 15,
    "linear_head": 40,
    "step_small": 55,
    "step_base": 60,
}
# In a dry run, whose machine may have other work, as many times as much.
_PATIENCE = 5
NEEDS = {
    "triton": "no Triton kernels",
    "setuptools": "no compiled kernels",
    "pybind11": "no compiled kernels",
    "pytest": "no conformance",
    "hypothesis": "no tests of properties",
    "scipy": "no tests of masking and sampling",
    "transformers": "no eager step to compare with",
    "matplotlib": "no picture",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="the same on a CPU, with tiny sizes")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    reason = None if arguments.section else _why_not(arguments.dry_run)
    if reason is not None:
        print(f"gpu-check: {reason}", file=sys.stderr)
        return 1
    if arguments.section:
        from benchmarks import gpu_sections

        return gpu_sections.run(arguments.section, arguments.dry_run)
    return _run_all(arguments.only or list(SECTIONS), arguments.dry_run)


def _why_not(dry_run: bool) -> str | None:
    """Why nothing can be measured here."""
    if importlib.util.find_spec("torch") is None:
        return f"{sys.executable} has no torch; say which Python has: make gpu-check PYTHON=..."
    import torch

    if not dry_run and torch.cuda.device_count() == 0:
        return f"torch {torch.__version__} finds no GPU here; DRY_RUN=1 tries the same on the CPU"
    return None


def _run_all(sections: list[str], dry_run: bool) -> int:
    lacking = [f"{name} ({result})" for name, result in NEEDS.items() if not importlib.util.find_spec(name)]
    if lacking:
        print(f"missing here: {', '.join(lacking)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Who is terminated ends the section that runs, as who is interrupted does.
    signal.signal(signal.SIGTERM, _exit)
    end, outcomes = time.monotonic(), {}
    for section in sections:
        print(f"\n== {section}", flush=True)
        start = time.monotonic()
        end += SECTIONS[section] * (_PATIENCE if dry_run else 1)
        outcomes[section] = _run(section, dry_run, end - start)
        print(f"-- {section}: {outcomes[section]}, {time.monotonic() - start:.0f} s", flush=True)
    from benchmarks import gpu_sections

    gpu_sections.conclude(outcomes, dry_run)
    failed = [section for section, outcome in outcomes.items() if outcome != "passed"]
    print(f"\n{len(outcomes) - len(failed)} sections passed, {len(failed)} did not: {', '.join(failed)}")
    return bool(failed)


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _run(section: str, dry_run: bool, seconds: float) -> str:
    """The outcome: "passed", "failed", or what ended it."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--section", section]
    process = None
    try:
        with _held_back(signal.SIGTERM), _held_back(signal.SIGINT):
            process = subprocess.Popen(
                [*command, *(["--dry-run"] if dry_run else [])],
                cwd=ROOT,
                env=_environment(dry_run),
                start_new_session=True,
            )
        status = process.wait(seconds)
    except BaseException as reason:
        if process is not None:
            # Its own processes too: what hangs may be one of them.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if isinstance(reason, subprocess.TimeoutExpired):
            return f"stopped after {seconds:.0f} s"
        raise
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return "failed" if status else "passed"


@contextlib.contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Delivers the signal after the block: in it, a process that nobody knows yet would be left behind."""
    came = []
    previous = signal.signal(number, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        signal.signal(number, previous)
        if came:
            signal.raise_signal(number)


def _environment(dry_run: bool) -> Mapping[str, str]:
    return os.environ | {"TRITON_INTERPRET": "1"} if dry_run else os.environ


if __name__ == "__main__":
    sys.exit(main())
